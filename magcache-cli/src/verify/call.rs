//! One recorded call of a case.

use std::{collections::BTreeMap, ops::Deref};

use anyhow::Result;
use candle_core::{DType, Tensor};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{
    case::{Case, Named},
    report::CaseReport,
    weight_files::Source,
};
use crate::console::bad_input;

/// How much two correct ports in f32 may differ by rounding.
const ROUNDING: f64 = 2e-5;

/// A port may be off by this multiple of the reference's own rounding noise, if that is more.
const NOISE_FACTOR: f64 = 19.0;

/// A call of a case.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) case: &'a Case,
    recorded: &'a RecordedCall,
}

impl Deref for Call<'_> {
    type Target = RecordedCall;

    fn deref(&self) -> &RecordedCall {
        self.recorded
    }
}

/// One recorded call: names of its arguments and results, and of their tensors.
#[derive(Debug, Deserialize)]
pub(super) struct RecordedCall {
    pub(super) name: String,
    #[serde(default)]
    pub(super) args: Map<String, Value>,
    #[serde(default)]
    pub(super) inputs: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) outputs: BTreeMap<String, String>,
    #[serde(default)]
    fp32_vs_fp64_max_abs: Option<f64>,
    /// The files of weights that it was recorded with.
    #[serde(flatten)]
    pub(super) source: Source,
}

impl<'a> Call<'a> {
    pub(super) fn new(case: &'a Case, recorded: &'a RecordedCall) -> Self {
        Self { case, recorded }
    }

    /// An optional input.
    pub(super) fn input(self, name: &str) -> Result<Option<&'a Tensor>> {
        self.inputs.get(name).map(|key| self.case.tensor(key)).transpose()
    }

    /// A required input.
    pub(super) fn required(self, name: &str) -> Result<&'a Tensor> {
        let place = &self.case.place;
        self.input(name)?
            .ok_or_else(|| bad_input(format!("{place}: call {:?} has no input `{name}`", self.name)))
    }

    /// Optional token ids, or an optional mask: whole numbers `[batch, tokens]`.
    pub(super) fn rows(self, name: &str) -> Result<Option<Vec<Vec<u32>>>> {
        let Some(tensor) = self.input(name)? else { return Ok(None) };
        let wrong = |what: String| {
            bad_input(format!("{}: the tensor {:?} {what}", self.case.place, self.inputs[name]))
        };
        if tensor.rank() != 2 {
            return Err(wrong(format!("has shape {:?}, expected [batch, tokens]", tensor.dims())));
        }
        let rows: Vec<Vec<i64>> = tensor.to_dtype(DType::I64)?.to_vec2()?;
        let id = |id: i64| u32::try_from(id).map_err(|_| wrong(format!("has {id}, expected a token id")));
        rows.into_iter().map(|row| row.into_iter().map(id).collect()).collect::<Result<_>>().map(Some)
    }

    /// The arguments that are not tensors.
    pub(super) fn args<T: DeserializeOwned>(self) -> Result<T> {
        T::deserialize(Value::Object(self.args.clone()))
            .map_err(|e| bad_input(format!("call {:?}, args: {e}", self.name)))
    }

    /// The tolerance for a model's outputs.
    pub(super) fn tolerance(self) -> f64 {
        self.fp32_vs_fp64_max_abs.map_or(ROUNDING, |noise| (NOISE_FACTOR * noise).max(ROUNDING))
    }

    /// Compares every output with what `got` gives for its name. What it does not give is left out, and
    /// `why` is the reason.
    pub(super) fn compare(
        self,
        report: &mut CaseReport,
        tolerance: f64,
        why: &str,
        got: impl Fn(&str) -> Result<Option<Tensor>>,
    ) -> Result<()> {
        for (output, key) in &self.recorded.outputs {
            match got(output)? {
                Some(got) => report.tensors(&self.name, output, &got, self.case.tensor(key)?, tolerance)?,
                None => report.leave_out(key, why),
            }
        }
        Ok(())
    }

    /// The tensors recorded inside the call: the module's name and the tensor's.
    pub(super) fn traces(self) -> Vec<(String, String)> {
        let prefix = format!("{}.trace.", self.name);
        let module = |key: &String| Some((key.strip_prefix(&prefix)?.to_owned(), key.clone()));
        let mut traces: Vec<_> = self.case.tensors.keys().filter_map(module).collect();
        traces.sort();
        traces
    }

    /// Compares the tensors recorded inside the call with those that were `seen`.
    pub(super) fn compare_inside(self, report: &mut CaseReport, tolerance: f64, seen: &Named) -> Result<()> {
        for (module, key) in self.traces() {
            match seen.get(&module) {
                Some(got) => {
                    report.tensors(&self.name, &module, got, self.case.tensor(&key)?, tolerance)?;
                }
                None => report.leave_out(key, "inside a part that this build does not open"),
            }
        }
        Ok(())
    }

    /// Leaves the whole call out if it has an input that is not one of `known`, and says so.
    pub(super) fn is_unknown(self, report: &mut CaseReport, known: &[&str], class: &str) -> bool {
        let unknown = self.inputs.keys().find(|name| !known.contains(&name.as_str()));
        if let Some(input) = unknown {
            report.leave_out(&self.name, format!("{class} has no input `{input}` in this build"));
        }
        unknown.is_some()
    }
}

//! Values of tensors in files, and tokens of tokenizers in them.

use std::collections::BTreeMap;

use anyhow::Result;
use candle_core::{Device, Tensor};
use magcache_models::{
    checkpoint::{WeightDtype, Weights, decode_f8},
    text::{PromptTokenizer, TokenizerDefaults},
};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    console::bad_input,
    verify::{
        call::Call,
        case::{Case, Named},
        report::CaseReport,
    },
};

/// How much a weight with adapters may differ: rounding.
const FUSED: f64 = 1e-6;

/// Compares outputs of a network with what was `seen`, and samples of its weights: decoded ones exactly.
pub(super) fn compare(
    call: Call<'_>,
    report: &mut CaseReport,
    label: &str,
    weights: &Weights,
    seen: &Named,
) -> Result<()> {
    let exact = call.source.adapters(call.case.path()).iter().all(Vec::is_empty);
    for (output, key) in &call.outputs {
        let want = call.case.tensor(key)?;
        let sample = ["weight.", "fused."].iter().find_map(|prefix| output.strip_prefix(prefix));
        match (seen.get(output), sample) {
            (Some(got), _) => report.tensors(label, output, got, want, call.tolerance())?,
            (None, Some(name)) => {
                let got = weight(weights, name, want)?;
                report.tensors(label, output, &got, want, if exact { 0.0 } else { FUSED })?;
            }
            (None, None) => report.leave_out(key, "not an output of this part"),
        }
    }
    Ok(())
}

/// The first rows of a weight, as many as were recorded.
fn weight(weights: &Weights, name: &str, want: &Tensor) -> Result<Tensor> {
    // The position table of T5 is recorded without its place.
    let table = weights.names().find(|full| full.ends_with(&format!(".{name}.weight")));
    let name = if weights.contains(name) { name } else { table.unwrap_or(name) };
    let stored = weights.shape(name).filter(|stored| stored.len() == want.rank());
    let shape = stored.unwrap_or(want.dims()).to_vec();
    Ok(weights.get_f32(name, &shape)?.narrow(0, 0, want.dim(0)?.min(shape[0]))?)
}

/// Compares every tensor of a file.
pub(super) fn tensors(call: Call<'_>, report: &mut CaseReport) -> Result<()> {
    #[derive(Deserialize)]
    struct Args {
        file: String,
    }
    let Args { file } = call.args()?;
    let weights = Weights::open_files(&call.case.folder, &[file], &Device::Cpu, WeightDtype::Keep)?;
    call.compare(report, 0.0, "the file has no such tensor", |name| {
        let Some(shape) = weights.shape(name).map(<[usize]>::to_vec) else { return Ok(None) };
        Ok(Some(weights.get_f32(name, &shape)?))
    })
}

#[derive(Deserialize)]
struct Recorded {
    /// Values of all codes by type; those that are not finite as text.
    #[serde(default)]
    values: BTreeMap<String, Vec<Value>>,
    /// What a file's tokenizer makes of texts.
    #[serde(default)]
    texts: Vec<Text>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
}

/// Compares the values of all codes of floats of eight bits.
pub(super) fn tables(case: &Case, report: &mut CaseReport) -> Result<()> {
    for (name, values) in case.read::<Recorded>()?.values {
        let got = decode_f8(&name).ok_or_else(|| bad_input(format!("this build has no {name}")))?;
        let differs = |(got, want): &(&f32, &Value)| match want {
            Value::String(text) if text == "nan" => !got.is_nan(),
            Value::String(text) => text.parse() != Ok(**got),
            number => number.as_f64() != Some(f64::from(**got)),
        };
        let wrong: Vec<_> = got.iter().zip(&values).filter(differs).collect();
        let detail = wrong.first().map(|(got, want)| format!("got {got}, expected {want}"));
        report.count(&name, "values", wrong.len() + got.len().abs_diff(values.len()), got.len(), detail);
    }
    Ok(())
}

/// Compares what the tokenizer in each file makes of texts.
pub(super) fn texts(case: &Case, report: &mut CaseReport) -> Result<()> {
    let texts = case.read::<Recorded>()?.texts;
    if texts.is_empty() {
        return Ok(());
    }
    for call in case.calls() {
        for file in call.source.files().into_iter().flatten() {
            let tokenizer = PromptTokenizer::in_file(&case.folder, file, TokenizerDefaults::T5)?;
            let tokenizer = tokenizer.ok_or_else(|| bad_input(format!("{file} has no tokenizer")))?;
            let mut wrong = Vec::new();
            for Text { text, ids } in &texts {
                let mut got = tokenizer.encode(text)?;
                got.input_ids.truncate(got.len);
                if got.input_ids != *ids {
                    wrong.push(format!("{text:?}: got {:?}, expected {ids:?}", got.input_ids));
                }
            }
            report.count("texts", file, wrong.len(), texts.len(), wrong.into_iter().next());
        }
    }
    Ok(())
}

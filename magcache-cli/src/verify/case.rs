//! A case folder: `case.json`, `golden.safetensors` and, for some cases, the model.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use magcache_models::checkpoint::{Folder, Ops};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::console::bad_input;

/// How much two correct ports in f32 may differ by rounding.
const ROUNDING: f64 = 2e-5;

/// A port may be off by this multiple of the reference's own rounding noise, if that is more.
const NOISE_FACTOR: f64 = 20.0;

/// A folder of recorded calls.
pub(super) struct Case {
    /// The folder, with the model's configuration and weights.
    pub(super) folder: Folder,
    path: PathBuf,
    /// Its path in messages.
    place: String,
    meta: Value,
    label: String,
    group: String,
    name: String,
    calls: Vec<Call>,
    tensors: HashMap<String, Tensor>,
}

/// One recorded call: names of its arguments and results, and of their tensors.
#[derive(Debug, Deserialize)]
pub(super) struct Call {
    pub(super) name: String,
    #[serde(default)]
    pub(super) args: Value,
    #[serde(default)]
    pub(super) inputs: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) outputs: BTreeMap<String, String>,
    #[serde(default)]
    fp32_vs_fp64_max_abs: Option<f64>,
}

#[derive(Deserialize)]
struct Head {
    group: String,
    case: String,
    #[serde(default)]
    calls: Vec<Call>,
}

/// The class that a configuration names, as written by diffusers or transformers.
#[derive(Deserialize)]
struct Class {
    #[serde(rename = "_class_name")]
    class_name: Option<String>,
    #[serde(default)]
    architectures: Vec<String>,
}

impl Case {
    pub(super) fn open(path: &Path, ops: Ops) -> Result<Self> {
        let folder = Folder::open(path)?.computing_with(ops);
        let meta: Value = folder.read_json("case.json")?;
        let place = folder.describe_file("case.json");
        let head = Head::deserialize(&meta).map_err(|e| bad_input(format!("{place}: {e}")))?;
        let file = path.join("golden.safetensors");
        let tensors = candle_core::safetensors::load(&file, &Device::Cpu)
            .map_err(|e| bad_input(format!("cannot read {}: {e}", file.display())))?;
        let Head { group, case: name, calls } = head;
        let own = std::path::absolute(path)?;
        let label = own.file_name().map_or_else(|| name.clone(), |n| n.to_string_lossy().into_owned());
        let path = path.to_owned();
        Ok(Self { folder, path, place, meta, label: format!("{group}/{label}"), group, name, calls, tensors })
    }

    /// `transformers`, `vaes`, ...
    pub(super) fn group(&self) -> &str {
        &self.group
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The name that it was recorded under.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The group and the folder's name.
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    pub(super) fn calls(&self) -> &[Call] {
        &self.calls
    }

    /// Reads further fields of `case.json`.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(&self.meta).map_err(|e| bad_input(format!("{}: {e}", self.place)))
    }

    /// The class of the model in the folder or, if there are several models, of the one in `transformer`.
    pub(super) fn class(&self) -> Result<String> {
        const FILES: [&str; 2] = ["config.json", "transformer/config.json"];
        let file = FILES.into_iter().find(|file| self.folder.exists(file)).unwrap_or(FILES[0]);
        let Class { class_name, architectures } = self.folder.read_json(file)?;
        let named = class_name.or_else(|| architectures.into_iter().next());
        named.ok_or_else(|| bad_input(format!("{} names no class", self.folder.describe_file(file))))
    }

    /// True if the recording has a tensor of this name.
    pub(super) fn has(&self, key: &str) -> bool {
        self.tensors.contains_key(key)
    }

    pub(super) fn tensor(&self, key: &str) -> Result<&Tensor> {
        self.tensors.get(key).ok_or_else(|| {
            bad_input(format!(
                "{} needs the tensor {key:?}, which golden.safetensors does not have",
                self.place
            ))
        })
    }

    /// An optional argument of a call.
    pub(super) fn input(&self, call: &Call, name: &str) -> Result<Option<&Tensor>> {
        call.inputs.get(name).map(|key| self.tensor(key)).transpose()
    }

    /// A required argument of a call.
    pub(super) fn required(&self, call: &Call, name: &str) -> Result<&Tensor> {
        let missing = || bad_input(format!("{}: call {:?} has no input `{name}`", self.place, call.name));
        self.input(call, name)?.ok_or_else(missing)
    }

    /// Token ids or a mask: whole numbers `[batch, tokens]`.
    pub(super) fn rows(&self, key: &str) -> Result<Vec<Vec<u32>>> {
        let wrong = |what: String| bad_input(format!("{}: the tensor {key:?} {what}", self.place));
        let tensor = self.tensor(key)?;
        if tensor.rank() != 2 {
            return Err(wrong(format!("has shape {:?}, expected [batch, tokens]", tensor.dims())));
        }
        let rows: Vec<Vec<i64>> = tensor.to_dtype(DType::I64)?.to_vec2()?;
        let id = |id: i64| u32::try_from(id).map_err(|_| wrong(format!("has {id}, expected a token id")));
        rows.into_iter().map(|row| row.into_iter().map(id).collect()).collect()
    }

    /// The tensors recorded inside a call: the module's name and the tensor's.
    pub(super) fn traces(&self, call: &Call) -> Vec<(String, String)> {
        let prefix = format!("{}.trace.", call.name);
        let module = |key: &String| Some((key.strip_prefix(&prefix)?.to_owned(), key.clone()));
        let mut traces: Vec<_> = self.tensors.keys().filter_map(module).collect();
        traces.sort();
        traces
    }
}

impl Call {
    /// The tolerance for a model's outputs.
    pub(super) fn tolerance(&self) -> f64 {
        self.fp32_vs_fp64_max_abs.map_or(ROUNDING, |noise| (NOISE_FACTOR * noise).max(ROUNDING))
    }
}

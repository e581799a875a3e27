//! A case folder: `case.json`, `golden.safetensors` if it has tensors and, for some cases, the model.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use candle_core::Tensor;
use magcache_models::checkpoint::{Folder, Weights};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    call::{Call, RecordedCall},
    report::CaseReport,
    setting::Setting,
};
use crate::console::bad_input;

/// Tensors by the reference's names.
pub(super) type Named = BTreeMap<String, Tensor>;

/// A folder of recorded calls.
pub(super) struct Case {
    /// The folder with the model's configuration and weights: the case's own, or the one that it names.
    pub(super) folder: Folder,
    /// Where it runs.
    pub(super) on: Setting,
    path: PathBuf,
    /// Its path in messages.
    pub(super) place: String,
    meta: Value,
    label: String,
    group: String,
    name: String,
    calls: Vec<RecordedCall>,
    pub(super) tensors: HashMap<String, Tensor>,
}

#[derive(Deserialize)]
struct Head {
    group: String,
    case: String,
    #[serde(default)]
    calls: Vec<RecordedCall>,
    /// The folder of the model, if it is not the case's own, relative to that.
    model_folder: Option<PathBuf>,
    /// Shapes of tensors that are not stored, because their `i`th value is `sin(0.37 i)`.
    #[serde(default)]
    waves: BTreeMap<String, Vec<usize>>,
}

/// The class that a configuration names, as written by diffusers or transformers.
#[derive(Deserialize)]
struct Class {
    #[serde(rename = "_class_name")]
    diffusers: Option<String>,
    #[serde(default)]
    architectures: Vec<String>,
    /// All that a recording of weights alone has.
    model_type: Option<String>,
}

/// The group that a case belongs to.
pub(super) fn group_of(path: &Path) -> Result<String> {
    #[derive(Deserialize)]
    struct Group {
        group: String,
    }
    Ok(Folder::open(path)?.read_json::<Group>("case.json")?.group)
}

/// The class of the model in a folder.
pub(super) fn class_in(folder: &Folder) -> Result<String> {
    const FILE: &str = "config.json";
    let Class { diffusers: class_name, architectures, model_type } = folder.read_json(FILE)?;
    let encoder = model_type.filter(|of| ["t5", "umt5"].contains(&of.as_str()));
    let encoder = encoder.map(|of| format!("{}EncoderModel", of.to_uppercase()));
    let named = class_name.or_else(|| architectures.into_iter().next()).or(encoder);
    named.ok_or_else(|| bad_input(format!("{} names no class", folder.describe_file(FILE))))
}

impl Case {
    pub(super) fn open(path: &Path, on: &Setting) -> Result<Self> {
        let folder = Folder::open(path)?.computing_with(on.ops);
        let meta: Value = folder.read_json("case.json")?;
        let place = folder.describe_file("case.json");
        let head = Head::deserialize(&meta).map_err(|e| bad_input(format!("{place}: {e}")))?;
        let file = path.join("golden.safetensors");
        let Head { group, case: name, calls, model_folder, waves } = head;
        let on = on.of_group(&group);
        let mut tensors = HashMap::new();
        // A case without calls may have no tensors.
        if !calls.is_empty() || file.exists() {
            tensors = candle_core::safetensors::load(&file, &on.device)
                .map_err(|e| bad_input(format!("cannot read {}: {e}", file.display())))?;
        }
        for (key, shape) in waves {
            let values = (0..shape.iter().product::<usize>()).map(|i| (0.37 * i as f64).sin() as f32);
            tensors.insert(key, Tensor::from_iter(values, &on.device)?.reshape(shape)?);
        }
        let folder = match model_folder {
            Some(model) => Folder::open(path.join(model))?.computing_with(on.ops),
            None => folder,
        };
        let own = std::path::absolute(path)?;
        let label = own.file_name().map_or_else(|| name.clone(), |n| n.to_string_lossy().into_owned());
        let path = path.to_owned();
        let label = format!("{group}/{label}");
        Ok(Self { folder, on, path, place, meta, label, group, name, calls, tensors })
    }

    /// The case in another folder, relative to this one, on the same operations.
    pub(super) fn beside(&self, folder: &Path) -> Result<Self> {
        Self::open(&self.path.join(folder), &self.on)
    }

    /// The tensors of the model in the case's folder, where and as it runs.
    pub(super) fn weights(&self) -> Result<Weights> {
        Ok(self.on.weights(&self.folder)?)
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

    pub(super) fn calls(&self) -> impl Iterator<Item = Call<'_>> {
        self.calls.iter().map(|recorded| Call::new(self, recorded))
    }

    /// Compares every call with `compare`.
    pub(super) fn compare_calls(
        &self,
        report: &mut CaseReport,
        mut compare: impl FnMut(Call<'_>, &mut CaseReport) -> Result<()>,
    ) -> Result<()> {
        self.calls()
            .try_for_each(|call| compare(call, report).with_context(|| format!("call {:?}", call.name)))
    }

    /// Reads further fields of `case.json`.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(&self.meta).map_err(|e| bad_input(format!("{}: {e}", self.place)))
    }

    /// The class of the model in the folder or, if there are several models, of the one in `transformer`.
    pub(super) fn class(&self) -> Result<String> {
        let one = self.folder.exists("config.json") || !self.folder.sub("transformer").exists("config.json");
        class_in(&if one { self.folder.clone() } else { self.folder.sub("transformer") })
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
}

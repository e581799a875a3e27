//! Which files of a folder hold a component's tensors.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::{CheckpointError, Folder};

/// File names of a component, in order of preference.
const NAMES: [&str; 7] = [
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
    "diffusion_pytorch_model.pth",
    "model.pth",
    "diffusion_pytorch_model.gguf",
];

/// The index of a sharded checkpoint.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The files of a component and, if an index lists them, the tensors they should contain.
pub(super) struct Files {
    pub(super) names: Vec<String>,
    pub(super) tensors: Vec<String>,
}

/// Finds one of [`NAMES`], or the shards that its `*.index.json` lists; every file returned exists.
pub(super) fn locate(folder: &Folder) -> Result<Files, CheckpointError> {
    for name in NAMES {
        if folder.exists(name) {
            return Ok(Files { names: vec![name.to_owned()], tensors: Vec::new() });
        }
        let index = format!("{name}.index.json");
        if folder.exists(&index) {
            return shards(folder, &index);
        }
    }
    let [first, others @ ..] = NAMES;
    Err(CheckpointError::MissingFile {
        file: folder.describe_file(first),
        expected: format!("that file, {}, or the index.json of a sharded checkpoint", others.join(", ")),
    })
}

fn shards(folder: &Folder, index: &str) -> Result<Files, CheckpointError> {
    let Index { weight_map } = folder.read_json(index)?;
    let names: BTreeSet<&str> =
        weight_map.values().map(|shard| folder.inside(index, shard)).collect::<Result<_, _>>()?;
    if let Some(absent) = names.iter().find(|name| !folder.exists(name)) {
        return Err(CheckpointError::MissingFile {
            file: folder.describe_file(absent),
            expected: format!("one of the {} files that {index} lists", names.len()),
        });
    }
    let names = names.into_iter().map(str::to_owned).collect();
    Ok(Files { names, tensors: weight_map.into_keys().collect() })
}

//! Model names: a model embedded in the program, one that is known without weights, or a folder. The same for
//! every command.

use std::path::Path;

use anyhow::{Error, Result};
use magcache_core::meta;
use magcache_models::{
    checkpoint::Folder,
    pipeline::{self, Embedded},
};

use crate::console::{bad_input_with, did_you_mean};

pub(crate) fn embedded(name: &str) -> Option<&'static Embedded> {
    pipeline::embedded().into_iter().find(|embedded| embedded.name == name)
}

/// True for a known model whose weights are not embedded.
pub(crate) fn is_without_weights(name: &str) -> bool {
    embedded(name).is_none() && meta::models().iter().any(|model| model.name == name)
}

pub(crate) fn default_folder() -> Result<Folder> {
    match pipeline::default_model() {
        Some(first) => Ok((first.folder)()),
        None => Err(bad_input_with("this build has no embedded model", "give --model DIR")),
    }
}

/// A folder with nothing in it, for models of single files.
pub(crate) fn no_folder() -> Folder {
    Folder::embedded("the given files", &[])
}

/// The files of a model given by name or folder.
///
/// Errors: it is neither, with the nearest name; the folder cannot be read.
pub(crate) fn folder(typed: &Path) -> Result<Folder> {
    match typed.to_str().and_then(embedded) {
        Some(embedded) => Ok((embedded.folder)()),
        None if typed.exists() => Ok(Folder::open(typed)?),
        None => Err(unknown(typed)),
    }
}

/// The error for something that is neither a folder nor the name of a model with weights.
fn unknown(typed: &Path) -> Error {
    let name = typed.to_string_lossy();
    if is_without_weights(&name) {
        let message = format!("model {name:?} has no weights in this program");
        return bad_input_with(
            message,
            "give the folder of its checkpoint: --model DIR, or `weights = \"DIR\"`",
        );
    }
    let known = meta::models().into_iter().map(|model| &*model.name);
    let hint =
        did_you_mean(&name, known, "magcache list names the models; all others are given by their folder");
    bad_input_with(format!("{name} is neither a folder nor a model inside this program"), hint)
}

//! Model names: a model embedded in the program, one that is known without weights, or a folder. The same for
//! every command.

use std::path::{Path, PathBuf};

use anyhow::{Error, Result};
use magcache_core::meta;
use magcache_hub::{Fetched, Hub, HubError, Name, Part, Progress};
use magcache_models::{
    checkpoint::Folder,
    pipeline::{self, Embedded},
};

use crate::console::{Console, bad_input_with, did_you_mean};

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

/// The model on the hub that was typed: what is neither a model in the program nor a path.
pub(crate) fn on_hub(typed: &str) -> Option<Name> {
    let other = embedded(typed).is_some() || Path::new(typed).exists();
    Name::parse(typed).filter(|_| Name::is_explicit(typed) || !other)
}

/// Endings of files of weights: a name with one of them is a path, whether it exists or not.
const WEIGHTS: [&str; 6] = [".safetensors", ".gguf", ".pth", ".pt", ".bin", ".sft"];

/// The file or tokenizer on the hub that was typed in place of a path that `folder` has.
pub(crate) fn part_on_hub(part: Part, typed: &Path, folder: &Path) -> Option<Name> {
    let text = typed.to_str()?;
    let name = Name::parse(text)?.of(part);
    let is_path = folder.join(typed).exists() || WEIGHTS.iter().any(|ending| name.repo.ends_with(ending));
    (Name::is_explicit(text) || !is_path).then_some(name)
}

/// The path of what was typed: in the hub's cache, or what it is.
///
/// Errors: it is on the hub and not in its cache.
pub(crate) fn path_of(part: Part, typed: &Path) -> Result<PathBuf> {
    let Some(name) = part_on_hub(part, typed, Path::new("")) else { return Ok(typed.to_owned()) };
    match Hub::from_env().local(&name) {
        Some(Fetched::Folder(path)) => Ok(path),
        Some(Fetched::Files(files)) if !files.is_empty() => Ok(files.into_iter().take(1).collect()),
        _ => Err(not_here(&name)),
    }
}

/// The model in the hub's cache, downloaded first as far as it is missing.
///
/// Errors: it cannot be had.
pub(crate) fn fetch(name: &Name, out: &Console) -> Result<Fetched> {
    with_progress(name, out, |hub, tell| hub.fetch(name, tell))
}

/// The model as the hub has it now.
///
/// Errors: it cannot be had.
pub(crate) fn pull(name: &Name, out: &Console) -> Result<Fetched> {
    with_progress(name, out, |hub, tell| hub.pull(name, tell))
}

fn with_progress(
    name: &Name,
    out: &Console,
    get: impl FnOnce(&Hub, &Progress<'_>) -> Result<Fetched, HubError>,
) -> Result<Fetched> {
    let bar = out.transfer(&name.repo);
    let fetched = get(&Hub::from_env(), &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    Ok(fetched?)
}

/// The files of a model given by name or folder.
///
/// Errors: it is neither, with the nearest name; the folder cannot be read.
pub(crate) fn folder(typed: &Path) -> Result<Folder> {
    match typed.to_str().and_then(embedded) {
        Some(embedded) => Ok((embedded.folder)()),
        None if typed.to_str().and_then(on_hub).is_some() => {
            let Some(name) = typed.to_str().and_then(on_hub) else { return Err(unknown(typed)) };
            match Hub::from_env().local(&name) {
                Some(Fetched::Folder(path)) => Ok(Folder::open(path)?),
                _ => Err(not_here(&name)),
            }
        }
        None if typed.exists() => Ok(Folder::open(typed)?),
        None => Err(unknown(typed)),
    }
}

/// The error for a model of the hub that is not in the cache.
pub(crate) fn not_here(name: &Name) -> Error {
    let message = format!("{name} is not in {}", Hub::from_env().cache().display());
    bad_input_with(message, format!("magcache pull {name}"))
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

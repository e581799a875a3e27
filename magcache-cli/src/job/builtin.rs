//! Adapters inside the program, `builtin:NAME`: each belongs to a model inside the program.

use std::path::Path;

use anyhow::Result;
use magcache_models::pipeline::{self, Embedded, GivenAdapter};

use crate::{
    args::Lora,
    console::{bad_input_with, did_you_mean},
};

const PREFIX: &str = "builtin:";

/// The name of an adapter inside the program, if that was typed in place of a path.
pub(crate) fn name(typed: &Path) -> Option<&str> {
    typed.to_str()?.strip_prefix(PREFIX)
}

/// What is typed for the adapters of a model inside the program.
pub(crate) fn of(model: &Embedded) -> Vec<String> {
    model.adapters().iter().map(|name| format!("{PREFIX}{name}")).collect()
}

/// The adapter, for a run of `model`.
///
/// Errors: no model inside the program has an adapter of this name, or another one has.
pub(super) fn adapter(lora: &Lora, model: &str) -> Result<GivenAdapter> {
    let mut given = lora.given();
    let Some(name) = name(&lora.file) else { return Ok(given) };
    let all = pipeline::embedded();
    let own = all.iter().find(|embedded| embedded.name == model).and_then(|own| own.adapter(name));
    if let Some((path, folder)) = own {
        (given.adapter.path, given.adapter.folder) = (path, Some(folder));
        return Ok(given);
    }
    if let Some(other) = all.iter().find(|other| other.adapter(name).is_some()) {
        let message = format!("{PREFIX}{name} is an adapter of {}, the model is {model}", other.name);
        return Err(bad_input_with(message, format!("--model {}, or another adapter", other.name)));
    }
    let known: Vec<String> = all.iter().flat_map(|embedded| of(embedded)).collect();
    let (typed, list) = (lora.file.display(), known.join(", "));
    let message = format!("there is no adapter {typed} in this program, which has {list}");
    let names = known.iter().map(String::as_str);
    Err(bad_input_with(message, did_you_mean(&typed.to_string(), names, "a file is given by its path")))
}

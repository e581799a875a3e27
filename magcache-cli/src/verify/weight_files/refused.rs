//! Files that must be refused, with what the message has to name.

use anyhow::Result;
use magcache_core::hint;
use magcache_models::checkpoint::Adapter;
use serde::Deserialize;

use super::{Lora, networks};
use crate::verify::{case::Case, report::CaseReport};

#[derive(Deserialize)]
struct Recorded {
    #[serde(default)]
    errors: Vec<Refused>,
}

#[derive(Deserialize)]
struct Refused {
    name: String,
    /// The model, if it is the model that is refused.
    file: Option<String>,
    #[serde(default)]
    loras: Vec<Lora>,
    /// What the message contains.
    message_names: Vec<String>,
}

/// The class of models in cases without one.
const USUAL: &str = "WanTransformer3DModel";

pub(super) fn check(case: &Case, report: &mut CaseReport) -> Result<()> {
    for Refused { name, file, loras, message_names } in case.read::<Recorded>()?.errors {
        let class = case.class().unwrap_or_else(|_| USUAL.to_owned());
        let adapter = |lora: &Lora| Adapter {
            path: case.path().join(&lora.file),
            folder: None,
            strength: lora.strength,
            skip_unknown: false,
        };
        let adapters: Vec<Adapter> = loras.iter().map(adapter).collect();
        let error = networks::error_of(&class, &case.folder, file.as_deref(), &adapters);
        let (wrong, detail) = match error.map(|error| hint::told(&error)) {
            None => (1, Some("it was accepted".to_owned())),
            Some(told) => {
                let missing: Vec<&String> =
                    message_names.iter().filter(|name| !told.contains(*name)).collect();
                (missing.len(), (!missing.is_empty()).then(|| format!("{told:?} lacks {missing:?}")))
            }
        };
        report.count(&name, "refused, naming what is wrong", wrong, message_names.len().max(1), detail);
    }
    Ok(())
}

//! A case whose parts are stored elsewhere, as one diffusers folder.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use super::case::Case;
use crate::console::bad_input;

#[derive(Deserialize)]
struct Parts {
    /// Folders of the model that are stored elsewhere, relative to the case's own.
    parts: BTreeMap<String, String>,
    /// Prompt length in tokens that the recording used, by tokenizer.
    #[serde(default)]
    max_lengths: BTreeMap<String, usize>,
}

/// Copies the parts of a case to a new folder. The case's own files are copied last: one case has its own
/// `config.json` next to shared weights.
pub(super) fn assemble(case: &Case) -> Result<tempfile::TempDir> {
    let Parts { parts, max_lengths } = case.read()?;
    let whole = tempfile::tempdir()?;
    for (part, from) in &parts {
        copy(&case.path().join(from), &whole.path().join(part))?;
    }
    copy(case.path(), whole.path())?;
    for (tokenizer, length) in &max_lengths {
        let file = whole.path().join(tokenizer).join("tokenizer_config.json");
        let mut config: Value = serde_json::from_str(&fs::read_to_string(&file)?)
            .map_err(|e| bad_input(format!("{}: {e}", file.display())))?;
        config["model_max_length"] = (*length).into();
        fs::write(&file, config.to_string())?;
    }
    Ok(whole)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let place = || format!("cannot copy {}", from.display());
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(place)? {
        let path = entry.with_context(place)?.path();
        let to = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy(&path, &to)?;
        } else {
            fs::copy(&path, to).with_context(place)?;
        }
    }
    Ok(())
}

//! What identifies a run: everything that its latents depend on, key by key.

use std::{
    fs,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use anyhow::{Context, Result};
use magcache_models::checkpoint::Ops;
use serde_json::Value;

use super::file::{Identity, NAME};
use crate::{
    args::Run,
    job::{Job, OutputTable},
};

/// The identity of a job. Files are identified by size and time, not read: hashing the weights of a large
/// model takes minutes.
pub(crate) fn identity(job: &Job, args: &Run) -> Result<Identity> {
    let mut config = job.config.clone();
    // The path of the result does not affect it.
    config.output = OutputTable::default();
    let mut keys = Identity::new();
    flatten("", &serde_json::to_value(&config)?, &mut keys);
    keys.insert(crate::PROGRAM.to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    keys.insert("dtype".to_owned(), args.placement.dtype.name());
    keys.insert("device".to_owned(), args.placement.device.clone());
    keys.insert("tile_vae".to_owned(), args.tile_vae.to_string());
    keys.insert("reference_ops".to_owned(), (job.ops == Ops::Reference).to_string());
    let profiles = config.cache.iter().filter_map(|table| table.get("profile")?.as_str().map(PathBuf::from));
    let pictures = config.sampling.pictures().into_iter().map(|(_, path)| path.clone());
    for path in profiles.chain(pictures).chain(config.weights) {
        files(&path, &mut keys)?;
    }
    Ok(keys)
}

/// Flattens keys to `sampling.steps`, `cache[0].threshold`; unset keys are left out.
fn flatten(at: &str, value: &Value, out: &mut Identity) {
    match value {
        Value::Null => {}
        Value::Object(map) => {
            for (key, value) in map {
                flatten(&if at.is_empty() { key.clone() } else { format!("{at}.{key}") }, value, out);
            }
        }
        Value::Array(list) if list.iter().any(|item| item.is_object() || item.is_array()) => {
            list.iter().enumerate().for_each(|(i, item)| flatten(&format!("{at}[{i}]"), item, out));
        }
        plain => {
            out.insert(at.to_owned(), plain.to_string());
        }
    }
}

/// Extensions of files that belong to a checkpoint: weights, configurations and tokenizers.
const PARTS: [&str; 7] = ["safetensors", "pth", "pt", "bin", "json", "model", "txt"];

/// Adds size and time of a file, or of every file in a checkpoint's folder; adds nothing if `path` does not
/// exist.
fn files(path: &Path, out: &mut Identity) -> Result<()> {
    let Ok(about) = fs::metadata(path) else { return Ok(()) };
    if about.is_file() {
        let changed = about.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let changed =
            changed.map_or_else(String::new, |time| format!(", changed at {:.6}", time.as_secs_f64()));
        out.insert(path.display().to_string(), format!("{} bytes{changed}", about.len()));
        return Ok(());
    }
    let entries = fs::read_dir(path).with_context(|| format!("cannot read the folder {}", path.display()))?;
    for entry in entries {
        let path = entry?.path();
        let part = path.extension().is_some_and(|ending| PARTS.iter().any(|part| ending == *part));
        let state = path.file_name().is_some_and(|name| name == NAME);
        if path.is_dir() || (part && !state) {
            files(&path, out)?;
        }
    }
    Ok(())
}

//! Runs that survive being killed: stores the state in a folder and resumes from it.
//!
//! The state is one file that is replaced atomically: under its name there is always a complete one. A
//! process that uses the folder holds a lock on it, which the system releases when the process ends, however
//! it ends.

mod file;

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use anyhow::{Context, Result};
use magcache_core::snapshot::Snapshot;
use magcache_models::{checkpoint::Ops, pipeline::Generation, ranks::Ranks};
use serde_json::Value;

pub(crate) use self::file::{Identity, Stored};
use crate::{
    args::Placement,
    console::bad_input_with,
    job::{Job, OutputTable, model_name},
};

/// The folder of `--checkpoint`.
#[derive(Debug)]
pub(crate) struct StateFolder {
    folder: PathBuf,
    run: Identity,
    output: PathBuf,
    /// Everything that the run will write.
    outputs: Vec<PathBuf>,
    /// True if the state in the folder has other output paths.
    moved: bool,
    /// The next step of the run in the last stored state.
    stored: Option<usize>,
    /// Held as long as the folder is in use.
    lock: Option<File>,
}

impl StateFolder {
    /// Opens the folder, which need not exist, and returns the state of this same run, if any. Writes
    /// nothing.
    ///
    /// Errors: the state of another run, a file that is not a state, a folder in use by another process.
    pub(crate) fn open(folder: &Path, run: Identity) -> Result<(Self, Option<Stored>)> {
        let mut new = Self {
            folder: folder.to_owned(),
            run,
            output: PathBuf::new(),
            outputs: Vec::new(),
            moved: false,
            stored: None,
            lock: None,
        };
        if folder.is_dir() {
            new.lock()?;
        }
        let stored = file::read(folder)?;
        if let Some(stored) = &stored {
            stored.check(folder, &new.run)?;
            new.stored = Some(stored.step()?);
            new.outputs.clone_from(&stored.outputs);
        } else {
            crate::media::probe(&folder.join(file::NAME))?;
        }
        Ok((new, stored))
    }

    /// The files that it uses in its folder.
    pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
        file::NAMES.iter().map(|name| folder.join(name)).collect()
    }

    /// Records the result's path and all output paths, so that a resumed run recognises them as its own.
    pub(crate) fn will_write(&mut self, output: &Path, outputs: Vec<PathBuf>) {
        self.moved = outputs != self.outputs;
        (self.output, self.outputs) = (output.to_owned(), outputs);
    }

    /// The step at which a run would resume from the folder; `None` if it holds no state.
    pub(crate) fn stored(&self) -> Option<usize> {
        self.stored
    }

    /// True if the run's output paths are not yet stored in the folder.
    pub(crate) fn is_news(&self) -> bool {
        self.stored.is_none() || self.moved
    }

    /// Stores the state of a run between two steps, replacing the previous one: `snapshot`, which is that of
    /// all ranks.
    pub(crate) fn save(&mut self, run: &Generation, snapshot: Snapshot) -> Result<()> {
        if self.lock.is_none() {
            let cannot = || format!("cannot create the folder {}", self.folder.display());
            fs::create_dir_all(&self.folder).with_context(cannot)?;
            self.lock()?;
        }
        let Self { run: identity, output, outputs, .. } = &*self;
        let (output, outputs) = (output.clone(), outputs.clone());
        Stored { run: identity.clone(), output, outputs, snapshot }.write(&self.folder)?;
        (self.stored, self.moved) = (Some(run.next()), false);
        Ok(())
    }

    /// Removes the state of a run whose outputs are complete, and the folder if nothing else is in it.
    pub(crate) fn finish(self) -> Result<()> {
        file::remove(&self.folder)?;
        // Fails if the folder is not empty.
        let _ = fs::remove_dir(&self.folder);
        Ok(())
    }

    fn lock(&mut self) -> Result<()> {
        // If a folder cannot be opened or locked, runs are trusted not to share it.
        let Ok(folder) = File::open(&self.folder) else { return Ok(()) };
        if let Err(TryLockError::WouldBlock) = folder.try_lock() {
            let message = format!("another run is using the folder {}", self.folder.display());
            return Err(bad_input_with(message, "wait for it, or name another --checkpoint DIR"));
        }
        self.lock = Some(folder);
        Ok(())
    }
}

/// True after a step whose state is to be stored: every `every` steps of the run, and after the last one.
pub(crate) fn is_due(every: usize, run: &Generation) -> bool {
    run.is_done() || (run.next() - run.trajectory().first).is_multiple_of(every)
}

/// The identity of a job. Files are identified by size and time, not read: hashing the weights of a large
/// model takes minutes.
pub(crate) fn identity(job: &Job, placement: &Placement, tile_vae: bool) -> Result<Identity> {
    let mut config = job.config.clone();
    // The path of the result does not affect it.
    config.output = OutputTable::default();
    let mut keys = Identity::new();
    flatten("", &serde_json::to_value(&config)?, &mut keys);
    keys.insert(crate::PROGRAM.to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    keys.insert("dtype".to_owned(), placement.dtype.name());
    keys.insert("device".to_owned(), placement.device.clone());
    if let Some(layout) = job.ranks.as_ref().map(Ranks::layout).filter(|layout| layout.ranks() > 1) {
        keys.insert("parallel".to_owned(), layout.to_string());
    }
    keys.insert("tile_vae".to_owned(), tile_vae.to_string());
    keys.insert("reference_ops".to_owned(), (job.ops == Ops::Reference).to_string());
    let profiles = config.cache.iter().filter_map(|table| table.get("profile")?.as_str().map(PathBuf::from));
    let given = config.sampling.files().into_iter().map(|(_, path)| path.clone());
    let mut there = config.clone();
    let parts = there.weight_files().map(|(part, path)| model_name::path_of(part, path));
    let parts: Vec<PathBuf> = parts.collect::<Result<_>>()?;
    for path in profiles.chain(given).chain(parts).chain(config.weights) {
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
const PARTS: [&str; 8] = ["safetensors", "gguf", "pth", "pt", "bin", "json", "model", "txt"];

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
        let state = path.file_name().is_some_and(|name| name == file::NAME);
        if path.is_dir() || (part && !state) {
            files(&path, out)?;
        }
    }
    Ok(())
}

//! The file that stores a run's state: safetensors, with everything that is not a tensor in its header.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Error, Result};
use candle_core::{Device, Tensor, safetensors::Load};
use magcache_core::snapshot::Snapshot;
use magcache_models::pipeline::Generation;
use safetensors::{SafeTensors, View, tensor::TensorInfo};
use serde_json::{Map, json};

use crate::console::bad_input_with;

pub(super) const NAME: &str = "state.safetensors";

/// The next state while it is written. The name is fixed, so that killed runs leave at most one.
const PART: &str = "state.safetensors.part";

/// Both of them.
pub(super) const NAMES: [&str; 2] = [NAME, PART];

/// The format's name and version in the header.
const FORMAT: (&str, &str) = ("magcache-state", "1");

/// Keys of the header: the identity of the run, the path of its result, all of its output paths, and values
/// of the snapshot.
const RUN: &str = "run/";
const OUTPUT: &str = "output";
const OUTPUTS: &str = "outputs";
const STATE: &str = "state/";

/// Identifies the run that a state belongs to: key by key, as in its configuration.
pub(crate) type Identity = BTreeMap<String, String>;

/// The state stored in a folder.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(super) run: Identity,
    pub(crate) output: PathBuf,
    pub(crate) outputs: Vec<PathBuf>,
    pub(crate) snapshot: Snapshot,
}

/// Reads the state in a folder; `None` if there is none.
pub(super) fn read(folder: &Path) -> Result<Option<Stored>> {
    let path = folder.join(NAME);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
    };
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| foreign(&path, &e.to_string()))?;
    let header = header.metadata().clone().unwrap_or_default();
    match header.get(FORMAT.0).map(String::as_str) {
        Some(version) if version == FORMAT.1 => {}
        Some(other) => return Err(foreign(&path, &format!("its form is {other}, expected {}", FORMAT.1))),
        None => return Err(foreign(&path, "its header does not say so")),
    }
    let part = |prefix: &str| -> BTreeMap<String, String> {
        let own = header.iter().filter_map(|(key, value)| Some((key.strip_prefix(prefix)?, value)));
        own.map(|(key, value)| (key.to_owned(), value.clone())).collect()
    };
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| foreign(&path, &e.to_string()))?;
    let tensors = tensors.iter().map(|(name, view)| Ok((name.to_owned(), view.load(&Device::Cpu)?)));
    let tensors: candle_core::Result<BTreeMap<String, Tensor>> = tensors.collect();
    let outputs = header.get(OUTPUTS).map(|list| serde_json::from_str(list)).transpose();
    let outputs = outputs.map_err(|e| foreign(&path, &e.to_string()))?.unwrap_or_default();
    Ok(Some(Stored {
        run: part(RUN),
        outputs,
        output: header.get(OUTPUT).map(PathBuf::from).unwrap_or_default(),
        snapshot: Snapshot::from_parts(tensors?, part(STATE)),
    }))
}

/// Removes the state of a folder, and an unfinished next one left by a killed run.
pub(super) fn remove(folder: &Path) -> Result<()> {
    for name in NAMES {
        match fs::remove_file(folder.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("cannot remove {}", folder.join(name).display()));
            }
            _ => {}
        }
    }
    Ok(())
}

impl Stored {
    pub(crate) fn step(&self) -> Result<usize> {
        Ok(Generation::stored_step(&self.snapshot.reader(&Device::Cpu))?)
    }

    /// Errors: the state belongs to another run than `run`; lists every difference.
    pub(super) fn check(&self, folder: &Path, run: &Identity) -> Result<()> {
        let none = || "nothing".to_owned();
        let keys = self.run.keys().chain(run.keys().filter(|key| !self.run.contains_key(*key)));
        let differs = keys.filter(|key| self.run.get(*key) != run.get(*key));
        let differences: Vec<String> = differs
            .map(|key| {
                let (there, here) = (self.run.get(key).cloned(), run.get(key).cloned());
                format!(
                    "{key} is {} there and {} here",
                    there.unwrap_or_else(none),
                    here.unwrap_or_else(none)
                )
            })
            .collect();
        if differences.is_empty() {
            return Ok(());
        }
        let (step, folder) = (self.step()?, folder.display());
        let message = format!("{folder} holds another run, at step {step}: {}", differences.join("; "));
        Err(bad_input_with(message, format!("name another --checkpoint DIR, or delete {NAME} in {folder}")))
    }

    /// Replaces the previous state atomically.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let mut header = BTreeMap::from([
            (FORMAT.0.to_owned(), FORMAT.1.to_owned()),
            (OUTPUT.to_owned(), self.output.display().to_string()),
            (OUTPUTS.to_owned(), serde_json::to_string(&self.outputs)?),
        ]);
        let own = |prefix: &str, values: &BTreeMap<String, String>| -> Vec<(String, String)> {
            values.iter().map(|(key, value)| (format!("{prefix}{key}"), value.clone())).collect()
        };
        header.extend(own(RUN, &self.run));
        header.extend(own(STATE, self.snapshot.values()));
        let (part, path) = (folder.join(PART), folder.join(NAME));
        let cannot = || format!("cannot write {}", path.display());
        let file = write_tensors(&part, header, self.snapshot.tensors()).with_context(cannot)?;
        // The data is on disk before it gets its name, and the name before the run continues.
        file.sync_all().with_context(cannot)?;
        fs::rename(&part, &path).with_context(cannot)?;
        #[cfg(unix)]
        File::open(folder).and_then(|folder| folder.sync_all()).with_context(cannot)?;
        Ok(())
    }
}

/// Writes a safetensors file, one tensor in memory at a time: the crate's own file writer uses a temporary
/// name of its own, which a killed run would leave behind.
fn write_tensors(
    path: &Path,
    header: BTreeMap<String, String>,
    tensors: &BTreeMap<String, Tensor>,
) -> Result<File> {
    let mut index = Map::from_iter([("__metadata__".to_owned(), json!(header))]);
    let mut end = 0;
    for (name, tensor) in tensors {
        let start = end;
        end += tensor.data_len();
        let (dtype, shape) = (tensor.dtype().into(), tensor.dims().to_vec());
        let info = TensorInfo { dtype, shape, data_offsets: (start, end) };
        index.insert(name.clone(), serde_json::to_value(info)?);
    }
    let mut index = serde_json::to_vec(&index)?;
    index.resize(index.len().next_multiple_of(8), b' ');

    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&(index.len() as u64).to_le_bytes())?;
    file.write_all(&index)?;
    for tensor in tensors.values() {
        file.write_all(&View::data(&tensor.to_device(&Device::Cpu)?))?;
    }
    Ok(file.into_inner()?)
}

fn foreign(path: &Path, why: &str) -> Error {
    let message = format!("{} is not the state of a run: {why}", path.display());
    bad_input_with(message, "name another --checkpoint DIR, or delete the file to begin again")
}

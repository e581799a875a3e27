//! Checkpoints written by `torch.save`: `.pth`, `.pt`, `.bin`.
//!
//! Such a file is a zip archive of raw storages and a pickle that says which tensor is which part of which
//! storage; before PyTorch 1.6 it was a row of pickles followed by the storages. A pickle is a program. The
//! one here is not run: [`pickle`] follows the few instructions that state dictionaries are made of and
//! refuses a file that names anything other than tensors. The result is byte ranges, as from a safetensors
//! header, so tensors are read from the mapped file on demand.
//!
//! Sources: `torch/serialization.py` and `torch/_weights_only_unpickler.py` of PyTorch 2.11 and the
//! description of the opcodes in Python's `pickletools`. candle's reader (`candle_core::pickle`) is not used:
//! its values are nested, so a damaged file can overflow the stack; it skips what it does not understand; and
//! it needs a path, not a mapping.

mod dictionary;
mod globals;
mod legacy;
mod pickle;
mod storage;
#[cfg(test)]
mod tests;
mod zip;

use std::collections::BTreeMap;

use super::{CheckpointError, header::TensorInfo};

/// The ninth byte of a safetensors file, where its header begins; no torch file has it there.
const JSON: u8 = b'{';

/// Whether the file is in PyTorch's format rather than safetensors.
pub(super) fn is_torch(bytes: &[u8]) -> bool {
    bytes.get(8) != Some(&JSON) && (zip::is_zip(bytes) || legacy::is_pickle(bytes))
}

/// The tensors of a file by name. `file` is for messages.
pub(super) fn parse(file: &str, bytes: &[u8]) -> Result<BTreeMap<String, TensorInfo>, CheckpointError> {
    let parsed = if zip::is_zip(bytes) { archive(bytes) } else { legacy::parse(bytes) };
    parsed.map_err(|fault| match fault {
        Fault::Bad(reason, hint) => CheckpointError::BadTorchFile { file: file.to_owned(), reason, hint },
        Fault::Code(name) => CheckpointError::CodeInPickle { file: file.to_owned(), name },
    })
}

/// An error that does not know the file's name yet.
#[derive(Debug, PartialEq)]
enum Fault {
    /// A fault that damage or another format explains, and what the user can do about it.
    Bad(String, Option<&'static str>),
    /// The pickle names a class or function that does not belong to a tensor.
    Code(String),
}

type Parsed<T> = Result<T, Fault>;

/// Hint for an incomplete file.
const AGAIN: &str = "download it again";

fn bad<T>(reason: impl Into<String>) -> Parsed<T> {
    Err(Fault::Bad(reason.into(), None))
}

fn bad_with<T>(reason: impl Into<String>, hint: &'static str) -> Parsed<T> {
    Err(Fault::Bad(reason.into(), Some(hint)))
}

/// A zip archive: `NAME/data.pkl`, and a storage in each `NAME/data/KEY`.
fn archive(bytes: &[u8]) -> Parsed<BTreeMap<String, TensorInfo>> {
    let entries = zip::entries(bytes)?;
    let pickle = entries.iter().find_map(|(name, range)| Some((name.strip_suffix("data.pkl")?, range)));
    let Some((root, pickle)) = pickle.filter(|(root, _)| root.is_empty() || root.ends_with('/')) else {
        return bad("it is a zip archive without data.pkl, so not one of torch.save");
    };
    if let Some(order) = entries.get(&format!("{root}byteorder")).and_then(|range| bytes.get(range.clone()))
        && order != b"little"
    {
        return bad(format!("its byteorder is {}, supported is little", String::from_utf8_lossy(order)));
    }
    let mut machine = pickle::Machine::default();
    let value = machine.run(bytes.get(pickle.clone()).unwrap_or_default())?;
    let tensors = dictionary::tensors(&machine, value)?;
    storage::locate(tensors, |key| {
        let name = format!("{root}data/{key}");
        match entries.get(&name) {
            Some(range) => Ok(range.clone()),
            None => bad(format!("there is no storage \"{name}\" in it")),
        }
    })
}

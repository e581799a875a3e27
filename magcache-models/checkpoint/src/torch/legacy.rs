//! Files as `torch.save` wrote them before PyTorch 1.6.
//!
//! Five pickles in a row: a magic number, the protocol, facts about the system, the object, the keys of its
//! storages. Then the storages in the order of those keys, each an element count (8 bytes) followed by the
//! elements.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
};

use super::{
    AGAIN, Parsed, bad, bad_with, dictionary,
    pickle::{Id, Machine, Storage, Value},
    storage,
};
use crate::header::TensorInfo;

/// The first pickle: the number `0x1950a86a20f9469cfc6c`.
const MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// Whether the file starts with a pickle that declares its protocol (2 or later).
pub(super) fn is_pickle(bytes: &[u8]) -> bool {
    matches!(bytes, [0x80, 2..=5, ..])
}

pub(super) fn parse(bytes: &[u8]) -> Parsed<BTreeMap<String, TensorInfo>> {
    if bytes.get(2..).is_none_or(|rest| !rest.starts_with(MAGIC)) {
        return bad("it is a pickle, but not one of torch.save");
    }
    let mut at = 2 + MAGIC.len();
    let mut machine = Machine::default();
    let mut next = |machine: &mut Machine| {
        let (value, length) = machine.run_prefix(bytes.get(at..).unwrap_or_default())?;
        at += length;
        Ok((value, at))
    };
    let _protocol = next(&mut machine)?;
    let (system, _) = next(&mut machine)?;
    if let Value::Dict(facts) = machine.value(system) {
        let big = |(key, value): &(Id, Id)| {
            matches!((machine.value(*key), machine.value(*value)),
                (Value::Text(key), Value::Bool(false)) if **key == *"little_endian")
        };
        if facts.iter().any(big) {
            return bad("it was written on a big-endian machine, supported is little-endian");
        }
    }
    let (object, _) = next(&mut machine)?;
    let (keys, data) = next(&mut machine)?;
    let tensors = dictionary::tensors(&machine, object)?;
    let storages = storages(bytes, data, &machine, keys)?;
    storage::locate(tensors, |key| match storages.get(key) {
        Some(range) => Ok(range.clone()),
        None => bad(format!("there is no storage \"{key}\" in it")),
    })
}

/// The bytes of every storage; `at` is where the first one begins.
fn storages<'m>(
    bytes: &[u8],
    mut at: usize,
    machine: &'m Machine,
    keys: Id,
) -> Parsed<HashMap<&'m str, Range<usize>>> {
    let Value::List(keys) = machine.value(keys) else { return bad("it has no list of storages") };
    let width = |value| match value {
        &Value::Storage(Storage { ref key, dtype, .. }) => {
            Some((&**key, dtype.map_or(8, |dtype| dtype.bitsize()) / 8))
        }
        _ => None,
    };
    let widths: HashMap<&str, usize> = machine.values().iter().filter_map(width).collect();
    let mut storages = HashMap::new();
    for key in keys {
        let Value::Text(key) = machine.value(*key) else { return bad("the key of a storage is not text") };
        let Some(width) = widths.get(&**key) else {
            return bad(format!("it lists storage \"{key}\", whose type it does not state"));
        };
        let range =
            bytes.get(at..).and_then(|rest| rest.split_first_chunk::<8>()).and_then(|(length, rest)| {
                let length = usize::try_from(u64::from_le_bytes(*length)).ok()?.checked_mul(*width)?;
                (length <= rest.len()).then(|| at + 8..at + 8 + length)
            });
        let Some(range) = range else {
            return bad_with(format!("it ends inside storage \"{key}\""), AGAIN);
        };
        at = range.end;
        storages.insert(&**key, range);
    }
    Ok(storages)
}

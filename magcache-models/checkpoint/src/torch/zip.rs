//! Where the entries of a zip archive lie in the mapped file: `torch.save` stores them uncompressed.

use std::{collections::BTreeMap, io::Cursor, ops::Range};

use zip::{CompressionMethod, ZipArchive, result::ZipError};

use super::{AGAIN, Fault, Parsed, bad, bad_with};

pub(super) fn is_zip(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04")
}

/// Name and bytes of every entry.
pub(super) fn entries(bytes: &[u8]) -> Parsed<BTreeMap<String, Range<usize>>> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|error| {
        let what = "it ends before the table of contents of its zip archive, or that is damaged";
        Fault::Bad(format!("{what}: {error}"), Some(AGAIN))
    })?;
    if archive.has_duplicate_names() {
        return bad("an entry of its zip archive is there twice");
    }
    let damaged = |error: ZipError| Fault::Bad(format!("its zip archive is damaged: {error}"), Some(AGAIN));
    let mut entries = BTreeMap::new();
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(damaged)?;
        let name = entry.name().map_err(damaged)?.into_owned();
        if entry.encrypted() {
            return bad(format!("its entry \"{name}\" is encrypted"));
        }
        if entry.compression() != CompressionMethod::Stored {
            let method = entry.compression();
            return bad_with(
                format!(
                    "its entry \"{name}\" is compressed ({method}), torch.save stores entries uncompressed"
                ),
                "load and save it again with PyTorch",
            );
        }
        let range = || {
            let start = usize::try_from(entry.data_start()?).ok()?;
            let end = start.checked_add(usize::try_from(entry.size()).ok()?)?;
            (end <= bytes.len()).then_some(start..end)
        };
        let Some(range) = range() else { return bad(format!("its entry \"{name}\" lies outside of it")) };
        entries.insert(name, range);
    }
    Ok(entries)
}

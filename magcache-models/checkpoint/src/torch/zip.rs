//! The table of contents of a zip archive whose entries are stored uncompressed.
//!
//! Only what `torch.save` writes, archives above 4 GiB included: the central directory, its zip64 forms, and the local
//! headers that say where the bytes begin. Source: the APPNOTE of the format, sections 4.3 and 4.5.3.

use std::{collections::BTreeMap, ops::Range};

use super::{AGAIN, Parsed, bad, bad_with};

/// Longest comment after the end record, and the record itself.
const TAIL: usize = 0xffff + END;
const END: usize = 22;

/// In a 32-bit field: the value is in the zip64 form.
const ELSEWHERE: u64 = 0xffff_ffff;

pub(super) fn is_zip(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04")
}

/// Name and bytes of every entry.
pub(super) fn entries(bytes: &[u8]) -> Parsed<BTreeMap<String, Range<usize>>> {
    let (mut at, count) = directory(bytes)?;
    let mut entries = BTreeMap::new();
    for _ in 0..count {
        let Some((entry, next)) = Entry::read(bytes, at) else {
            return bad(format!("its table of contents is damaged at byte {at}"));
        };
        at = next;
        if entry.flags & 1 != 0 {
            return bad(format!("its entry \"{}\" is encrypted", entry.name));
        }
        if entry.method != 0 {
            let method = entry.method;
            let name = &entry.name;
            return bad_with(
                format!(
                    "its entry \"{name}\" is compressed (method {method}), torch.save stores entries uncompressed"
                ),
                "load and save it again with PyTorch",
            );
        }
        let Some(range) = entry.data(bytes) else {
            return bad(format!("its entry \"{}\" lies outside of it", entry.name));
        };
        if entries.insert(entry.name.clone(), range).is_some() {
            return bad(format!("its entry \"{}\" is there twice", entry.name));
        }
    }
    Ok(entries)
}

/// Where the central directory begins, and how many entries it has.
fn directory(bytes: &[u8]) -> Parsed<(usize, u64)> {
    let from = bytes.len().saturating_sub(TAIL);
    let tail = bytes.get(from..).unwrap_or_default();
    let Some(found) = tail.windows(4).rposition(|window| window == b"PK\x05\x06") else {
        return bad_with("it ends before the table of contents of its zip archive", AGAIN);
    };
    let end = from + found;
    read_directory(bytes, end).map_or_else(|| bad_with("the end of its zip archive is damaged", AGAIN), Ok)
}

fn read_directory(bytes: &[u8], end: usize) -> Option<(usize, u64)> {
    let (count, start) = (number(bytes, end + 10, 2)?, number(bytes, end + 16, 4)?);
    if count != 0xffff && start != ELSEWHERE {
        return Some((usize::try_from(start).ok()?, count));
    }
    // The zip64 locator stands right before the end record.
    let locator = end.checked_sub(20)?;
    if bytes.get(locator..locator + 4)? != b"PK\x06\x07" {
        return None;
    }
    let record = usize::try_from(number(bytes, locator + 8, 8)?).ok()?;
    if bytes.get(record..record.checked_add(4)?)? != b"PK\x06\x06" {
        return None;
    }
    let (count, start) =
        (number(bytes, record.checked_add(32)?, 8)?, number(bytes, record.checked_add(48)?, 8)?);
    Some((usize::try_from(start).ok()?, count))
}

struct Entry {
    name: String,
    flags: u64,
    method: u64,
    size: u64,
    header: u64,
}

impl Entry {
    /// The entry at `at` of the central directory, and where the next one begins.
    fn read(bytes: &[u8], at: usize) -> Option<(Self, usize)> {
        if !bytes.get(at..at.checked_add(46)?)?.starts_with(b"PK\x01\x02") {
            return None;
        }
        let field = |offset, width| number(bytes, at + offset, width);
        let lengths = [field(28, 2)?, field(30, 2)?, field(32, 2)?];
        let [name, extra, comment] = lengths.map(|length| length as usize);
        let start = at + 46;
        let text = String::from_utf8(bytes.get(start..start + name)?.to_vec()).ok()?;
        let mut entry = Self {
            name: text,
            flags: field(8, 2)?,
            method: field(10, 2)?,
            size: field(24, 4)?,
            header: field(42, 4)?,
        };
        let packed = field(20, 4)?;
        entry.zip64(bytes.get(start + name..start + name + extra)?, packed)?;
        Some((entry, start + name + extra + comment))
    }

    /// Takes the fields that do not fit 32 bits from the extra field 1, which has only those, in this order.
    fn zip64(&mut self, mut extra: &[u8], packed: u64) -> Option<()> {
        while extra.len() >= 4 {
            let (id, length) = (number(extra, 0, 2)?, number(extra, 2, 2)? as usize);
            let field = extra.get(4..4 + length)?;
            if id == 1 {
                let mut at = 0;
                let mut next = |value: &mut u64| -> Option<()> {
                    if *value == ELSEWHERE {
                        *value = number(field, at, 8)?;
                        at += 8;
                    }
                    Some(())
                };
                let mut packed = packed;
                next(&mut self.size)?;
                next(&mut packed)?;
                next(&mut self.header)?;
            }
            extra = extra.get(4 + length..)?;
        }
        Some(())
    }

    /// The entry's bytes, which follow its local header.
    fn data(&self, bytes: &[u8]) -> Option<Range<usize>> {
        let header = usize::try_from(self.header).ok()?;
        if bytes.get(header..header.checked_add(4)?)? != b"PK\x03\x04" {
            return None;
        }
        let (name, extra) = (number(bytes, header + 26, 2)?, number(bytes, header + 28, 2)?);
        let start = header.checked_add(30)?.checked_add((name + extra) as usize)?;
        let end = start.checked_add(usize::try_from(self.size).ok()?)?;
        (end <= bytes.len()).then_some(start..end)
    }
}

/// A little-endian number of `width` bytes.
fn number(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(width)?)?;
    Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

//! GGUF, the container of ggml: a table of values, a table of tensors, and the data.
//!
//! Read here and not by candle because every file of a Wan transformer has a tensor with five axes, which
//! candle's reader refuses, because that reader maps nothing, and because it opens files that are cut off.
//! Versions 2 and 3; all counts and offsets are checked against the file before anything of their size is
//! made. Source: ggml's `gguf.md`, and what the published converters write.

mod cursor;
mod value;

use std::collections::BTreeMap;

use self::cursor::Cursor;
pub(super) use self::value::Value;
use super::{
    CheckpointError,
    header::{Contents, TensorInfo},
    metadata::Metadata,
    number::NumberFormat,
};

const MAGIC: &[u8] = b"GGUF";

/// Versions that are read; the first one had lengths of 32 bits.
const VERSIONS: [u32; 2] = [2, 3];

/// Bytes to whose multiples data is aligned if the file does not say.
const ALIGNMENT: u64 = 32;

/// The key that says.
const ALIGNMENT_KEY: &str = "general.alignment";

/// Begins the keys that hold the shape of a tensor which was stored in another one.
const SHAPE_KEY: &str = "comfy.gguf.orig_shape.";

/// Axes of a tensor; ggml itself has four, files have five.
const MOST_AXES: u32 = 8;

/// Whether the file is in this format, or in an older container of ggml.
pub(super) fn is_gguf(bytes: &[u8]) -> bool {
    // `ggml`, `ggmf` and `ggjt` as the little-endian numbers that they were written as.
    [MAGIC, b"lmgg", b"fmgg", b"tjgg"].iter().any(|magic| bytes.starts_with(magic))
}

/// A fault, and the byte that it is at.
#[derive(Debug, PartialEq)]
struct Fault {
    at: usize,
    reason: String,
}

type Parsed<T> = Result<T, Fault>;

/// The tensors and values of a file; `file` is for messages.
pub(super) fn parse(file: &str, bytes: &[u8]) -> Result<Contents, CheckpointError> {
    let mut cursor = Cursor::new(bytes);
    match table(&mut cursor).and_then(|table| table.into_contents(bytes)) {
        Ok(Ok(contents)) => Ok(contents),
        Ok(Err(expected)) => Err(CheckpointError::Truncated {
            file: file.to_owned(),
            expected: expected as u64,
            found: bytes.len() as u64,
        }),
        Err(Fault { at, reason }) => {
            Err(CheckpointError::BadGguf { file: file.to_owned(), at: at as u64, reason })
        }
    }
}

/// What precedes the data.
struct Table {
    values: BTreeMap<String, Value>,
    tensors: Vec<Entry>,
    /// The first byte of the data.
    data: usize,
    alignment: usize,
}

/// A line of the table of tensors.
struct Entry {
    at: usize,
    name: String,
    format: NumberFormat,
    /// Slowest axis first.
    shape: Vec<usize>,
    /// From the beginning of the data.
    offset: u64,
}

fn table(cursor: &mut Cursor<'_>) -> Parsed<Table> {
    if cursor.take(MAGIC.len())? != MAGIC {
        return Err(Fault { at: 0, reason: "it is an older container of ggml, not GGUF".into() });
    }
    let at = cursor.at();
    let version = cursor.u32()?;
    if !VERSIONS.contains(&version) {
        return Err(Fault { at, reason: format!("its version is {version}, supported are 2 and 3") });
    }
    let (tensors, pairs) = (cursor.u64()?, cursor.u64()?);
    let mut values = BTreeMap::new();
    for _ in 0..pairs {
        let (at, key) = (cursor.at(), cursor.string()?);
        let value = Value::read(cursor)?;
        if values.insert(key.clone(), value).is_some() {
            return Err(Fault { at, reason: format!("the key \"{key}\" comes twice") });
        }
    }
    let mut entries = Vec::new();
    for _ in 0..tensors {
        entries.push(entry(cursor)?);
    }
    let at = cursor.at();
    let alignment = match values.get(ALIGNMENT_KEY) {
        None => ALIGNMENT,
        Some(value) => match value.integer() {
            Some(alignment) if alignment.is_power_of_two() && alignment <= 1 << 20 => alignment,
            _ => return Err(Fault { at, reason: format!("{ALIGNMENT_KEY} is no power of two below 2^20") }),
        },
    } as usize;
    Ok(Table { values, tensors: entries, data: at.next_multiple_of(alignment), alignment })
}

fn entry(cursor: &mut Cursor<'_>) -> Parsed<Entry> {
    let (at, name) = (cursor.at(), cursor.string()?);
    let axes = cursor.u32()?;
    if axes > MOST_AXES {
        return Err(Fault {
            at,
            reason: format!("\"{name}\" has {axes} axes, at most {MOST_AXES} are read"),
        });
    }
    // Stored fastest axis first.
    let mut shape: Vec<usize> = Vec::new();
    for _ in 0..axes {
        shape.insert(0, cursor.u64()? as usize);
    }
    let (code, offset) = (cursor.u32()?, cursor.u64()?);
    match NumberFormat::of_gguf(code) {
        Ok(format) => Ok(Entry { at, name, format, shape, offset }),
        Err(unknown) => Err(Fault {
            at,
            reason: format!(
                "\"{name}\" is stored as {unknown}, supported are F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and \
                 Q2_K to Q6_K"
            ),
        }),
    }
}

impl Table {
    /// Where the tensors lie; the inner error is the length that the file should have.
    fn into_contents(self, bytes: &[u8]) -> Parsed<Result<Contents, usize>> {
        let mut tensors = BTreeMap::new();
        let mut ranges = Vec::new();
        let mut longest = 0;
        for Entry { at, name, format, shape, offset } in self.tensors {
            let fault = |reason: String| Fault { at, reason };
            let described = || format!("\"{name}\" ({format} {shape:?})");
            let count = shape.iter().try_fold(1usize, |count, n| count.checked_mul(*n));
            let size = count.and_then(|count| format.bytes(count));
            let (block, _) = format.block();
            let Some(size) = size.filter(|_| shape.last().is_none_or(|row| row.is_multiple_of(block))) else {
                return Err(fault(format!("{} is not a whole number of blocks of {block}", described())));
            };
            if !offset.is_multiple_of(self.alignment as u64) {
                return Err(fault(format!(
                    "{} begins at {offset}, no multiple of {}",
                    described(),
                    self.alignment
                )));
            }
            let start = usize::try_from(offset).ok().and_then(|offset| self.data.checked_add(offset));
            let Some((start, end)) = start.and_then(|start| Some((start, start.checked_add(size)?))) else {
                return Err(fault(format!("{} begins at {offset}, beyond any file", described())));
            };
            longest = longest.max(end);
            ranges.push((start, end, at));
            let key = format!("{SHAPE_KEY}{name}");
            let shape = match self.values.get(&key) {
                None => shape,
                Some(stated) => {
                    let axes = stated.integers(bytes);
                    let axes: Option<Vec<usize>> =
                        axes.and_then(|axes| axes.into_iter().map(|n| usize::try_from(n).ok()).collect());
                    let fits = |axes: &Vec<usize>| {
                        axes.iter().try_fold(1usize, |count, n| count.checked_mul(*n)) == count
                    };
                    match axes.filter(fits) {
                        Some(axes) => axes,
                        None => return Err(fault(format!("{key} does not go with {}", described()))),
                    }
                }
            };
            if tensors.insert(name.clone(), TensorInfo::new(format, shape, start..end)).is_some() {
                return Err(fault(format!("\"{name}\" comes twice")));
            }
        }
        ranges.sort_unstable();
        let overlap =
            ranges.windows(2).find(|pair| matches!(pair, [(_, end, _), (start, ..)] if start < end));
        if let Some([_, (start, _, at)]) = overlap {
            return Err(Fault { at: *at, reason: format!("two tensors share byte {start}") });
        }
        if longest > bytes.len() {
            return Ok(Err(longest));
        }
        Ok(Ok(Contents { tensors, metadata: Metadata::Gguf(self.values) }))
    }
}

#[cfg(test)]
mod tests;

//! The header of a safetensors file, checked strictly.
//!
//! Format: 8 bytes length `n` (little endian), `n` bytes JSON, data. The JSON maps names to `dtype`, `shape`
//! and `data_offsets` (begin and end, relative to the data), which must cover the data without holes or
//! overlaps. The `safetensors` crate checks the same but cannot say by how many bytes a file is short.

use std::{collections::BTreeMap, fmt, ops::Range};

use safetensors::Dtype;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};

use super::{CheckpointError, metadata::Metadata, number::NumberFormat, scales::Scale};

/// Longest header that is read, as in the reference implementation.
const MAX_HEADER: u64 = 100_000_000;

const PREFIX: u64 = 8;

/// Number format, shape and position of a tensor in a file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TensorInfo {
    pub(super) format: NumberFormat,
    pub(super) shape: Vec<usize>,
    /// Elements between neighbours on each axis, if the elements are not contiguous.
    pub(super) strides: Option<Vec<usize>>,
    /// Bytes in the file: within its bounds, and as long as the elements or, with strides, from the first to
    /// the last element.
    pub(super) range: Range<usize>,
    /// Whether the second half of the first axis comes before the first; the axis is even then.
    pub(super) swapped: bool,
    /// The factor of the values, if there is one.
    pub(super) scale: Option<Scale>,
}

impl TensorInfo {
    /// Contiguous values in their order.
    pub(super) fn new(format: NumberFormat, shape: Vec<usize>, range: Range<usize>) -> Self {
        Self { format, shape, strides: None, range, swapped: false, scale: None }
    }

    /// The same values as a tensor of this shape: that of the file but for axes of length 1, or with
    /// neighbouring axes where the file has their product. `None` for any other shape.
    pub(super) fn shaped(&self, shape: &[usize]) -> Option<Self> {
        if self.shape == shape {
            return Some(self.clone());
        }
        let long = |axes: &[usize]| axes.iter().copied().filter(|n| *n != 1).collect::<Vec<_>>();
        let (stored, wanted) = (long(&self.shape), long(shape));
        let mut wanted = wanted.into_iter();
        for n in stored {
            let mut product = 1usize;
            while product < n {
                product = product.checked_mul(wanted.next()?)?;
            }
            if product != n {
                return None;
            }
        }
        let by_row = matches!(self.scale, Some(Scale::Rows { .. }));
        let plain = self.strides.is_none() && !self.swapped && !by_row && wanted.next().is_none();
        plain.then(|| Self { shape: shape.to_vec(), ..self.clone() })
    }

    /// Number of values.
    pub(super) fn values(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes that the tensor's elements take up.
    pub(super) fn bytes(&self) -> usize {
        self.format.bytes(self.values()).unwrap_or_default()
    }
}

/// What a file contains.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) tensors: BTreeMap<String, TensorInfo>,
    pub(super) metadata: Metadata,
}

/// The contents of a file. `file` is for messages.
pub(super) fn parse(file: &str, bytes: &[u8]) -> Result<Contents, CheckpointError> {
    let found = bytes.len() as u64;
    let truncated = |expected| CheckpointError::Truncated { file: file.to_owned(), expected, found };
    let bad = |reason: String| CheckpointError::BadHeader { file: file.to_owned(), reason };

    let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(|| truncated(PREFIX))?;
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        return Err(bad(format!("its length would be {length} bytes, the limit is {MAX_HEADER}")));
    }
    let header = rest.get(..length as usize).ok_or_else(|| truncated(PREFIX + length))?;
    let Header { entries, metadata } = serde_json::from_slice(header).map_err(|e| bad(e.to_string()))?;

    let data = (PREFIX + length) as usize;
    let mut tensors = BTreeMap::new();
    for (name, entry) in entries {
        let [begin, end] = entry.data_offsets;
        let bits = entry.shape.iter().try_fold(entry.dtype.bitsize(), |bits, n| bits.checked_mul(*n));
        if bits.is_none_or(|bits| bits % 8 != 0 || begin.checked_add(bits / 8) != Some(end)) {
            let Entry { dtype, shape, .. } = entry;
            return Err(bad(format!("\"{name}\" is {dtype} {shape:?} in bytes {begin} to {end}")));
        }
        let (Some(start), Some(stop)) = (data.checked_add(begin), data.checked_add(end)) else {
            return Err(bad(format!("\"{name}\" ends at byte {end}")));
        };
        tensors.insert(name, TensorInfo::new(entry.dtype.into(), entry.shape, start..stop));
    }
    let end = covered(data, &tensors).map_err(bad)? as u64;
    match found {
        found if found < end => Err(truncated(end)),
        found if found > end => Err(bad(format!("{} bytes follow the last tensor", found - end))),
        _ => Ok(Contents { tensors, metadata: Metadata::Texts(metadata) }),
    }
}

/// Checks that the tensors follow each other without holes or overlaps; returns the end of the last.
fn covered(data: usize, tensors: &BTreeMap<String, TensorInfo>) -> Result<usize, String> {
    let mut ranges: Vec<_> =
        tensors.iter().map(|(name, info)| (info.range.start, info.range.end, name)).collect();
    ranges.sort_unstable();
    ranges.into_iter().try_fold(data, |previous, (start, end, name)| {
        if start == previous {
            return Ok(end);
        }
        let (start, previous) = (start - data, previous - data);
        Err(format!("\"{name}\" starts at byte {start} of the data, the tensor before it ends at {previous}"))
    })
}

#[derive(Deserialize)]
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

/// The entries in file order; unlike a map, it notices duplicate names.
struct Header {
    entries: Vec<(String, Entry)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with one entry for each tensor")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let (mut entries, mut metadata) = (Vec::new(), BTreeMap::new());
                let mut names = std::collections::HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !names.insert(name.clone()) {
                        return Err(A::Error::custom(format!("\"{name}\" comes twice")));
                    }
                    if name == "__metadata__" {
                        metadata = map.next_value()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(Header { entries, metadata })
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    const TWO: &str = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},
        "b":{"dtype":"BF16","shape":[],"data_offsets":[24,26]}}"#;

    fn message(header: &str, data: usize) -> String {
        parse("f", &file(header, data)).expect_err(header).to_string()
    }

    #[test]
    fn reads_what_is_there() {
        let Contents { tensors, metadata } = parse("f", &file(TWO, 26)).expect("is valid");
        assert_eq!(metadata.text("format"), Some("pt"));
        assert_eq!(tensors.len(), 2);
        assert_eq!(tensors["a"].shape, [2, 3]);
        assert_eq!((tensors["b"].format, tensors["b"].range.len()), (NumberFormat::BF16, 2));
    }

    #[test]
    fn a_short_file_names_both_sizes() {
        let whole = file(TWO, 26).len();
        assert!(message(TWO, 25).contains(&format!("got {} bytes, its header needs {whole}", whole - 1)));
        assert!(parse("f", &[1, 2]).expect_err("too short").to_string().contains("got 2 bytes"));
        let cut = parse("f", &file(TWO, 0)[..40]).expect_err("cut in the header");
        assert!(matches!(cut, CheckpointError::Truncated { found: 40, .. }), "{cut}");
        assert!(message(TWO, 30).contains("4 bytes follow"));
    }

    #[test]
    fn refuses_tensors_that_do_not_tile_the_data() {
        let pair = |a: &str, b: &str| {
            format!(
                r#"{{"a":{{"dtype":"F16","shape":[2],"data_offsets":{a}}},"b":{{"dtype":"F16","shape":[2],"data_offsets":{b}}}}}"#
            )
        };
        assert!(parse("f", &file(&pair("[4,8]", "[0,4]"), 8)).is_ok());
        for (a, b) in [("[0,4]", "[2,6]"), ("[0,4]", "[0,4]"), ("[0,4]", "[6,10]"), ("[1,5]", "[5,9]")] {
            assert!(message(&pair(a, b), 10).contains("starts at byte"), "{a} {b}");
        }
        for (a, b) in [("[4,0]", "[0,4]"), ("[0,3]", "[3,7]"), ("[18446744073709551614,2]", "[0,4]")] {
            assert!(message(&pair(a, b), 10).contains("in bytes"), "{a} {b}");
        }
        assert!(message(&pair("[0,4]", "[0,4]").replace("\"b\"", "\"a\""), 4).contains("comes twice"));
        let huge = r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,16],"data_offsets":[0,0]}}"#;
        assert!(message(huge, 0).contains("in bytes"));
        assert!(message(r#"{"a":{"dtype":"F99","shape":[],"data_offsets":[0,4]}}"#, 4).contains("F99"));
        let long = [u64::MAX.to_le_bytes().as_slice(), b"{}"].concat();
        assert!(parse("f", &long).expect_err("too long").to_string().contains("limit"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse("f", &bytes);
        }

        #[test]
        fn no_cut_of_a_valid_file_is_valid(keep in 0usize..1000) {
            let whole = file(TWO, 26);
            let keep = keep % whole.len();
            prop_assert!(parse("f", &whole[..keep]).is_err());
        }

        #[test]
        fn no_damaged_header_panics(at in 0usize..200, byte in any::<u8>(), length in any::<u64>()) {
            let mut bytes = file(TWO, 26);
            let at = 8 + at % (bytes.len() - 8);
            bytes[at] = byte;
            let _ = parse("f", &bytes);
            bytes[..8].copy_from_slice(&length.to_le_bytes());
            let _ = parse("f", &bytes);
        }

        #[test]
        fn accepted_ranges_lie_in_the_file(begin in 0usize..64, end in 0usize..64, n in 0usize..32, data in 0usize..64) {
            let header = format!(r#"{{"a":{{"dtype":"F16","shape":[{n}],"data_offsets":[{begin},{end}]}}}}"#);
            let bytes = file(&header, data);
            if let Ok(Contents { tensors, .. }) = parse("f", &bytes) {
                prop_assert_eq!(tensors["a"].range.len(), 2 * n);
                prop_assert!(tensors["a"].range.end <= bytes.len());
            }
        }
    }
}

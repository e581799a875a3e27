//! Snapshots: the state of a request as named tensors and named values, for storing and restoring it.
//!
//! Everything that a pass leaves for the next one must be stored exactly, or the continued run differs. A
//! struct lists its fields once, in [`fields!`](crate::fields), and that line writes it, reads it and counts
//! the bytes of its tensors; leaving out a field does not compile:
//!
//! ```
//! # use candle_core::{Device, Tensor};
//! # use magcache_core::snapshot::{Snapshot, SnapshotError};
//! #[derive(Default)]
//! struct MyState {
//!     anchor: Option<Tensor>,
//!     accumulated: f64,
//! }
//! magcache_core::fields!(MyState { anchor, accumulated });
//!
//! let mut snapshot = Snapshot::default();
//! snapshot.writer().field("mine", &MyState { anchor: None, accumulated: 0.25 });
//! let back: MyState = snapshot.reader(&Device::Cpu).field("mine")?;
//! assert_eq!(back.accumulated, 0.25);
//! # Ok::<(), SnapshotError>(())
//! ```
//!
//! ```compile_fail,E0027
//! # #[derive(Default)]
//! struct MyState {
//!     accumulated: f64,
//!     mean: Option<f64>,
//! }
//! magcache_core::fields!(MyState { accumulated });
//! ```

mod error;
mod fields;
mod places;
#[cfg(feature = "candle")]
mod tensors;
mod values;

use std::collections::BTreeMap;

pub use error::SnapshotError;
pub use places::{Reader, Writer};
pub(crate) use values::words;

/// Named tensors and named values. Names are paths such as `session/slots/0/history/skipped`.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    #[cfg(feature = "candle")]
    tensors: BTreeMap<String, candle_core::Tensor>,
    values: BTreeMap<String, String>,
}

/// State that can be stored, and restored into a fresh object built from the same configuration.
///
/// Implemented for every [`Field`]. If configuration and memory share a struct, `fields!(Taylor { steps,
/// differences } given { config })` implements it for the memory alone.
pub trait Persist {
    /// Writes everything that a later pass depends on.
    fn save(&self, to: &mut Writer<'_>);

    /// Reads back what [`Persist::save`] wrote.
    ///
    /// # Errors
    /// A part that is missing or malformed.
    fn load(&mut self, from: &Reader<'_>) -> Result<(), SnapshotError>;

    /// Bytes of the stored tensors.
    fn bytes(&self) -> usize;

    /// How many of them belong to tensors that every one of several ranks holds whole: those without a token
    /// axis, which are not `[batch, tokens, channels]`.
    fn whole_bytes(&self) -> usize {
        0
    }
}

/// A value that can be rebuilt from its stored form alone.
pub trait Field: Sized {
    /// Writes the value exactly.
    fn write(&self, to: &mut Writer<'_>);

    /// Reads the value back.
    ///
    /// # Errors
    /// A part that is missing, or that does not read as this type.
    fn read(from: &Reader<'_>) -> Result<Self, SnapshotError>;

    /// Bytes of the tensors in it.
    fn tensor_bytes(&self) -> usize {
        0
    }

    /// [`Persist::whole_bytes`].
    fn whole_tensor_bytes(&self) -> usize {
        0
    }
}

impl<T: Field> Persist for T {
    fn save(&self, to: &mut Writer<'_>) {
        self.write(to);
    }

    fn load(&mut self, from: &Reader<'_>) -> Result<(), SnapshotError> {
        *self = T::read(from)?;
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.tensor_bytes()
    }

    fn whole_bytes(&self) -> usize {
        self.whole_tensor_bytes()
    }
}

impl Snapshot {
    /// A snapshot of values alone, stored elsewhere.
    pub fn of_values(values: BTreeMap<String, String>) -> Self {
        Self {
            #[cfg(feature = "candle")]
            tensors: BTreeMap::new(),
            values,
        }
    }

    /// The values as text, one per line: for another rank of the run.
    #[cfg(feature = "candle")]
    pub(crate) fn to_text(&self) -> String {
        self.values.iter().map(|(path, value)| format!("{path}\t{value}\n")).collect()
    }

    /// The inverse of [`Snapshot::to_text`].
    #[cfg(feature = "candle")]
    pub(crate) fn of_text(text: &str) -> Self {
        let values = text.lines().filter_map(|line| line.split_once('\t'));
        Self::of_values(values.map(|(path, value)| (path.to_owned(), value.to_owned())).collect())
    }

    /// All other values by path.
    pub fn values(&self) -> &BTreeMap<String, String> {
        &self.values
    }

    /// A writer at the root.
    pub fn writer(&mut self) -> Writer<'_> {
        Writer { snapshot: self, path: String::new() }
    }

    /// A reader at the root, of parts without tensors; tensors would stay on the host.
    pub fn values_reader(&self) -> Reader<'_> {
        #[cfg(feature = "candle")]
        return self.reader(&candle_core::Device::Cpu);
        #[cfg(not(feature = "candle"))]
        Reader { snapshot: self, path: String::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Inner {
        list: Vec<f64>,
        word: Option<String>,
    }
    crate::fields!(Inner { list, word });

    #[derive(Debug, PartialEq)]
    struct Outer {
        cap: usize,
        inner: Option<Inner>,
        flag: bool,
    }
    crate::fields!(Outer { inner, flag } given { cap });

    fn outer(inner: Option<Inner>) -> Outer {
        Outer { cap: 3, inner, flag: true }
    }

    fn stored(outer: &Outer) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.writer().field("outer", outer);
        snapshot
    }

    fn back(snapshot: &Snapshot) -> Result<Outer, SnapshotError> {
        let mut outer = Outer { cap: 7, inner: None, flag: false };
        outer.load(&snapshot.values_reader().at("outer"))?;
        Ok(outer)
    }

    #[test]
    fn what_is_read_is_what_was_written_and_configuration_stays() {
        let odd = [0.1 + 0.2, -0.0, f64::MIN_POSITIVE / 3.0, f64::INFINITY, 1e300, f64::EPSILON];
        // The word `none` is not the same as an absent one.
        for word in [None, Some("none".to_owned()), Some(String::new())] {
            let inner = Some(Inner { list: odd.to_vec(), word });
            let read = back(&stored(&outer(inner.clone()))).unwrap();
            assert_eq!(read, Outer { cap: 7, inner, flag: true });
            let bits = |list: &[f64]| list.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&read.inner.unwrap().list), bits(&odd));
        }
        assert_eq!(back(&stored(&outer(None))).unwrap().inner, None);
    }

    #[test]
    fn a_part_that_is_missing_or_odd_is_named() {
        let whole = stored(&outer(Some(Inner { list: vec![1.0, 2.0], word: None })));
        for path in whole.values().keys() {
            let mut values = whole.values().clone();
            values.remove(path);
            let error = back(&Snapshot::of_values(values)).unwrap_err();
            assert!(error.to_string().contains(path.as_str()), "{path}: {error}");
            let mut values = whole.values().clone();
            values.insert(path.clone(), "what".to_owned());
            let error = back(&Snapshot::of_values(values)).unwrap_err().to_string();
            assert!(error.contains(path.as_str()) && error.contains("\"what\""), "{path}: {error}");
        }
    }
}

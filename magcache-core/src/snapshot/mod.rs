//! State of a request as plain parts: named tensors and named values, for storing it and putting it back.
//!
//! What a pass leaves for the next one must be in here to the bit, or a continued run is another run. A struct names its
//! fields once, in [`fields!`](crate::fields), and the same line writes it, reads it and counts the bytes of its tensors; a field
//! that is left out does not compile:
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
mod values;

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

pub use error::SnapshotError;
pub use places::{Reader, Writer};
pub(crate) use values::words;

/// Named tensors and named values. Names are paths, `session/slots/0/history/skipped`.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    tensors: BTreeMap<String, Tensor>,
    values: BTreeMap<String, String>,
}

/// What can be stored, and put back into a fresh one that was built from the same configuration.
///
/// Everything that is a [`Field`] is. Where configuration and memory share a struct, `fields!(Taylor { steps, differences }
/// given { config })` implements it for the memory alone.
pub trait Persist {
    /// Writes everything that a later pass depends on.
    fn save(&self, to: &mut Writer<'_>);

    /// Reads back what [`Persist::save`] wrote.
    ///
    /// # Errors
    /// A part that is missing, or that does not read as what it must be.
    fn load(&mut self, from: &Reader<'_>) -> Result<(), SnapshotError>;

    /// Bytes of the tensors that it stores.
    fn bytes(&self) -> usize;
}

/// A value that is made of what was stored and of nothing else.
pub trait Field: Sized {
    /// Writes the value, to the bit.
    fn write(&self, to: &mut Writer<'_>);

    /// Reads it back.
    ///
    /// # Errors
    /// A part that is missing, or that does not read as this type.
    fn read(from: &Reader<'_>) -> Result<Self, SnapshotError>;

    /// Bytes of the tensors in it.
    fn tensor_bytes(&self) -> usize {
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
}

impl Snapshot {
    /// What was stored elsewhere in these two parts.
    pub fn from_parts(tensors: BTreeMap<String, Tensor>, values: BTreeMap<String, String>) -> Self {
        Self { tensors, values }
    }

    /// The tensors by path, where they are.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// Everything else by path.
    pub fn values(&self) -> &BTreeMap<String, String> {
        &self.values
    }

    /// Writes at the root.
    pub fn writer(&mut self) -> Writer<'_> {
        Writer { snapshot: self, path: String::new() }
    }

    /// Reads at the root. Tensors that were not on the host come back on `device`, the model's.
    pub fn reader<'s>(&'s self, device: &'s Device) -> Reader<'s> {
        Reader { snapshot: self, device, path: String::new() }
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
        outer.load(&snapshot.reader(&Device::Cpu).at("outer"))?;
        Ok(outer)
    }

    #[test]
    fn what_is_read_is_what_was_written_and_configuration_stays() {
        let odd = [0.1 + 0.2, -0.0, f64::MIN_POSITIVE / 3.0, f64::INFINITY, 1e300, f64::EPSILON];
        // A word that is `none` is no absent one.
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
            let error = back(&Snapshot::from_parts(BTreeMap::new(), values)).unwrap_err();
            assert!(error.to_string().contains(path.as_str()), "{path}: {error}");
            let mut values = whole.values().clone();
            values.insert(path.clone(), "what".to_owned());
            let error = back(&Snapshot::from_parts(BTreeMap::new(), values)).unwrap_err().to_string();
            assert!(error.contains(path.as_str()) && error.contains("\"what\""), "{path}: {error}");
        }
    }
}

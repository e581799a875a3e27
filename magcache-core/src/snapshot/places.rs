//! Places in a snapshot, from which parts are written and read.

use super::{Field, Persist, Snapshot, SnapshotError};

/// A place in a [`Snapshot`] to write a part to.
#[derive(Debug)]
pub struct Writer<'s> {
    pub(super) snapshot: &'s mut Snapshot,
    pub(super) path: String,
}

/// A place in a [`Snapshot`] to read a part from.
#[derive(Clone, Debug)]
pub struct Reader<'s> {
    pub(super) snapshot: &'s Snapshot,
    #[cfg(feature = "candle")]
    pub(super) device: &'s candle_core::Device,
    pub(super) path: String,
}

/// `name` inside `path`.
fn inside(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") }
}

impl Writer<'_> {
    /// The place `name` inside this one.
    pub fn at(&mut self, name: &str) -> Writer<'_> {
        Writer { path: inside(&self.path, name), snapshot: self.snapshot }
    }

    /// Writes a part under `name`.
    pub fn field(&mut self, name: &str, part: &(impl Persist + ?Sized)) {
        part.save(&mut self.at(name));
    }

    /// Writes an optional part under `name`.
    pub fn optional(&mut self, name: &str, part: Option<&(impl Persist + ?Sized)>) {
        let mut to = self.at(name);
        to.value(if part.is_some() { SOME } else { NONE });
        if let Some(part) = part {
            to.field(SOME, part);
        }
    }

    /// Writes a value at this place.
    pub fn value(&mut self, value: impl ToString) {
        self.snapshot.values.insert(self.path.clone(), value.to_string());
    }
}

/// The value that marks a present part, and the name of the place inside that holds it.
pub(super) const SOME: &str = "some";

/// The value that marks an absent part.
pub(super) const NONE: &str = "none";

impl<'s> Reader<'s> {
    /// The place `name` inside this one.
    #[must_use]
    pub fn at(&self, name: &str) -> Reader<'s> {
        Reader { path: inside(&self.path, name), ..self.clone() }
    }

    /// Reads what was written under `name`.
    ///
    /// # Errors
    /// As [`Field::read`].
    pub fn field<T: Field>(&self, name: &str) -> Result<T, SnapshotError> {
        T::read(&self.at(name))
    }

    /// The place of a part that [`Writer::optional`] wrote under `name`; `None` if the part was absent.
    ///
    /// # Errors
    /// Nothing was written under `name`.
    pub fn optional(&self, name: &str) -> Result<Option<Reader<'s>>, SnapshotError> {
        self.at(name).present()
    }

    /// The place of the optional part here, if it is present.
    pub(super) fn present(&self) -> Result<Option<Reader<'s>>, SnapshotError> {
        match self.value()? {
            SOME => Ok(Some(self.at(SOME))),
            NONE => Ok(None),
            other => Err(self.odd("`some` or `none`", other)),
        }
    }

    /// The value at this place.
    ///
    /// # Errors
    /// No value is stored here.
    pub fn value(&self) -> Result<&'s str, SnapshotError> {
        let value = self.snapshot.values.get(&self.path);
        value.map(String::as_str).ok_or_else(|| SnapshotError::Missing { path: self.path.clone() })
    }

    /// The error for a value at this place that is not as expected.
    pub fn odd(&self, expected: impl Into<String>, got: impl ToString) -> SnapshotError {
        SnapshotError::Odd { path: self.path.clone(), expected: expected.into(), got: got.to_string() }
    }
}

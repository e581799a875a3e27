//! The stored form of numbers, words and lists.

use std::{ops::Range, sync::Arc, time::Duration};

use super::{Field, Reader, SnapshotError, Writer};

/// Implements [`Field`] for types whose [`ToString`] output [`FromStr`](std::str::FromStr) reads back.
macro_rules! words {
    ($($type:ty: $expected:literal),+ $(,)?) => {$(
        impl $crate::snapshot::Field for $type {
            fn write(&self, to: &mut $crate::snapshot::Writer<'_>) {
                to.value(self);
            }

            fn read(
                from: &$crate::snapshot::Reader<'_>,
            ) -> ::std::result::Result<Self, $crate::snapshot::SnapshotError> {
                let value = from.value()?;
                value.parse().map_err(|_| from.odd($expected, value))
            }
        }
    )+};
}
pub(crate) use words;

words! {
    bool: "`true` or `false`",
    u8: "a small number",
    u16: "a small number",
    u32: "a whole number",
    u64: "a whole number",
    usize: "a whole number",
    String: "a word",
}

impl Field for f64 {
    /// The shortest decimal that reads back as the same bits; all NaNs are written alike.
    fn write(&self, to: &mut Writer<'_>) {
        to.value(format!("{self:?}"));
    }

    fn read(from: &Reader<'_>) -> Result<Self, SnapshotError> {
        let value = from.value()?;
        value.parse().map_err(|_| from.odd("a number", value))
    }
}

impl Field for Duration {
    fn write(&self, to: &mut Writer<'_>) {
        to.field("seconds", &self.as_secs());
        to.field("nanoseconds", &self.subsec_nanos());
    }

    fn read(from: &Reader<'_>) -> Result<Self, SnapshotError> {
        let nanos: u32 = from.field("nanoseconds")?;
        match nanos {
            0..1_000_000_000 => Ok(Self::new(from.field("seconds")?, nanos)),
            _ => Err(from.at("nanoseconds").odd("less than a second", nanos)),
        }
    }
}

impl Field for Arc<str> {
    fn write(&self, to: &mut Writer<'_>) {
        to.value(self);
    }

    fn read(from: &Reader<'_>) -> Result<Self, SnapshotError> {
        from.value().map(Self::from)
    }
}

impl Field for () {
    fn write(&self, to: &mut Writer<'_>) {
        to.value("");
    }

    fn read(from: &Reader<'_>) -> Result<Self, SnapshotError> {
        from.value().map(|_| ())
    }
}

impl<T: Field> Field for Option<T> {
    fn write(&self, to: &mut Writer<'_>) {
        to.value(if self.is_some() { super::places::SOME } else { super::places::NONE });
        if let Some(value) = self {
            to.field(super::places::SOME, value);
        }
    }

    fn read(from: &Reader<'_>) -> Result<Self, SnapshotError> {
        from.present()?.map(|some| T::read(&some)).transpose()
    }

    fn tensor_bytes(&self) -> usize {
        self.as_ref().map_or(0, T::tensor_bytes)
    }

    fn whole_tensor_bytes(&self) -> usize {
        self.as_ref().map_or(0, T::whole_tensor_bytes)
    }
}

impl<T: Field> Field for Vec<T> {
    fn write(&self, to: &mut Writer<'_>) {
        to.value(self.len());
        for (i, item) in self.iter().enumerate() {
            to.field(&i.to_string(), item);
        }
    }

    fn read(from: &Reader<'_>) -> Result<Self, SnapshotError> {
        (0..usize::read(from)?).map(|i| from.field(&i.to_string())).collect()
    }

    fn tensor_bytes(&self) -> usize {
        self.iter().map(T::tensor_bytes).sum()
    }

    fn whole_tensor_bytes(&self) -> usize {
        self.iter().map(T::whole_tensor_bytes).sum()
    }
}

impl Field for Range<usize> {
    fn write(&self, to: &mut Writer<'_>) {
        to.field("start", &self.start);
        to.field("end", &self.end);
    }

    fn read(from: &Reader<'_>) -> Result<Self, SnapshotError> {
        Ok(from.field("start")?..from.field("end")?)
    }
}

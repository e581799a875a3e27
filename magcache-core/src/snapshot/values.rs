//! What numbers, words, lists, tensors and places are stored as.

use std::{ops::Range, str::FromStr, sync::Arc, time::Duration};

use candle_core::{DType, Device, DeviceLocation, Tensor};

use super::{Field, Reader, SnapshotError, Writer};
use crate::{Branch, Expert, HookId, Streams, Why};

/// A value that [`FromStr`] reads back from what [`ToString`] writes.
macro_rules! words {
    ($($type:ty: $expected:literal),+ $(,)?) => {$(
        impl Field for $type {
            fn write(&self, to: &mut Writer<'_>) {
                to.value(self);
            }

            fn read(from: &Reader<'_>) -> Result<Self, SnapshotError> {
                let value = from.value()?;
                <$type>::from_str(value).map_err(|_| from.odd($expected, value))
            }
        }
    )+};
}

words! {
    bool: "`true` or `false`",
    u8: "a small number",
    u16: "a small number",
    u32: "a whole number",
    u64: "a whole number",
    usize: "a whole number",
    String: "a word",
    Branch: "a guidance branch",
    Why: "the cause of a decision",
}

impl Field for f64 {
    /// The shortest decimal that reads back as the same bits; every NaN as one.
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

impl Field for Expert {
    fn write(&self, to: &mut Writer<'_>) {
        self.0.write(to);
    }

    fn read(from: &Reader<'_>) -> Result<Self, SnapshotError> {
        u8::read(from).map(Self)
    }
}

impl Field for HookId {
    fn write(&self, to: &mut Writer<'_>) {
        self.0.write(to);
    }

    fn read(from: &Reader<'_>) -> Result<Self, SnapshotError> {
        u16::read(from).map(Self)
    }
}

impl<T: Field> Field for Option<T> {
    fn write(&self, to: &mut Writer<'_>) {
        to.value(if self.is_some() { super::SOME } else { super::NONE });
        if let Some(value) = self {
            to.field(super::SOME, value);
        }
    }

    fn read(from: &Reader<'_>) -> Result<Self, SnapshotError> {
        from.present()?.map(|some| T::read(&some)).transpose()
    }

    fn tensor_bytes(&self) -> usize {
        self.as_ref().map_or(0, T::tensor_bytes)
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

impl Field for DType {
    fn write(&self, to: &mut Writer<'_>) {
        to.value(self.as_str());
    }

    fn read(from: &Reader<'_>) -> Result<Self, SnapshotError> {
        let value = from.value()?;
        value.parse().map_err(|_| from.odd("a dtype", value))
    }
}

/// The host, or the device that a snapshot is read for.
const HOST: &str = "cpu";
const DEVICE: &str = "device";

impl Field for Device {
    fn write(&self, to: &mut Writer<'_>) {
        to.value(if self.is_cpu() { HOST } else { DEVICE });
    }

    fn read(from: &Reader<'_>) -> Result<Self, SnapshotError> {
        match from.value()? {
            HOST => Ok(Self::Cpu),
            DEVICE => Ok(from.device().clone()),
            other => Err(from.odd("`cpu` or `device`", other)),
        }
    }
}

impl Field for DeviceLocation {
    fn write(&self, to: &mut Writer<'_>) {
        match self {
            Self::Cpu => to.value(HOST),
            Self::Cuda { gpu_id } => to.value(format!("cuda:{gpu_id}")),
            Self::Metal { gpu_id } => to.value(format!("metal:{gpu_id}")),
        }
    }

    fn read(from: &Reader<'_>) -> Result<Self, SnapshotError> {
        let value = from.value()?;
        let odd = || from.odd("`cpu`, `cuda:N` or `metal:N`", value);
        let number = |n: &str| n.parse().map_err(|_| odd());
        match value.split_once(':') {
            None if value == HOST => Ok(Self::Cpu),
            Some(("cuda", n)) => Ok(Self::Cuda { gpu_id: number(n)? }),
            Some(("metal", n)) => Ok(Self::Metal { gpu_id: number(n)? }),
            _ => Err(odd()),
        }
    }
}

impl Field for Tensor {
    fn write(&self, to: &mut Writer<'_>) {
        to.tensor(self);
        to.field("on", self.device());
    }

    fn read(from: &Reader<'_>) -> Result<Self, SnapshotError> {
        let moved = from.tensor()?.to_device(&from.field("on")?);
        moved.map_err(|e| SnapshotError::Tensor { path: from.path.clone(), message: e.to_string() })
    }

    fn tensor_bytes(&self) -> usize {
        self.elem_count() * self.dtype().size_in_bytes()
    }
}

impl Field for Streams {
    fn write(&self, to: &mut Writer<'_>) {
        match self {
            Self::Image(image) => {
                to.value("image");
                to.field("image", image);
            }
            Self::Dual { image, text } => {
                to.value("dual");
                to.field("image", image);
                to.field("text", text);
            }
            Self::Joint { tokens, text } => {
                to.value("joint");
                to.field("tokens", tokens);
                to.field("text", text);
            }
            Self::Sum { x, residual } => {
                to.value("sum");
                to.field("x", x.as_ref());
                to.field("residual", residual.as_ref());
            }
        }
    }

    fn read(from: &Reader<'_>) -> Result<Self, SnapshotError> {
        match from.value()? {
            "image" => Ok(Self::Image(from.field("image")?)),
            "dual" => Ok(Self::Dual { image: from.field("image")?, text: from.field("text")? }),
            "joint" => Ok(Self::Joint { tokens: from.field("tokens")?, text: from.field("text")? }),
            "sum" => Ok(from.field::<Self>("x")?.plus(from.field("residual")?)),
            other => Err(from.odd("`image`, `dual`, `joint` or `sum`", other)),
        }
    }

    fn tensor_bytes(&self) -> usize {
        self.tensors().into_iter().map(Tensor::tensor_bytes).sum()
    }
}

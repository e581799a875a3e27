//! The stored form of streams.

use super::Streams;
use crate::snapshot::{Field, Reader, SnapshotError, Writer};

impl<T: Field> Field for Streams<T> {
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
        }
    }

    fn read(from: &Reader<'_>) -> Result<Self, SnapshotError> {
        match from.value()? {
            "image" => Ok(Self::Image(from.field("image")?)),
            "dual" => Ok(Self::Dual { image: from.field("image")?, text: from.field("text")? }),
            "joint" => Ok(Self::Joint { tokens: from.field("tokens")?, text: from.field("text")? }),
            other => Err(from.odd("`image`, `dual` or `joint`", other)),
        }
    }

    fn tensor_bytes(&self) -> usize {
        self.tensors().into_iter().map(T::tensor_bytes).sum()
    }
}

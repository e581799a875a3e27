//! The properties of streams that must not change between storing a residual and using it.

use candle_core::{DType, DeviceLocation, Result, Tensor};

use super::Streams;

/// Shape, dtype and device of every stream, which must not change between storing a residual and using it.
/// Whether both streams share one sequence does not matter: the replacement for blocks that join them holds
/// them separately.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Kind {
    image: Form,
    text: Option<Form>,
}

#[derive(Clone, Debug, PartialEq)]
struct Form {
    dims: Vec<usize>,
    dtype: DType,
    device: DeviceLocation,
}

crate::fields!(Kind { image, text });
crate::fields!(Form { dims, dtype, device });

impl Streams {
    pub(crate) fn kind(&self) -> Result<Kind> {
        let form =
            |t: &Tensor| Form { dims: t.dims().to_vec(), dtype: t.dtype(), device: t.device().location() };
        Ok(Kind { image: form(&self.image()?), text: self.text()?.as_ref().map(form) })
    }
}

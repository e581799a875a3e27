//! What must not change between a stored residual and its use.

use candle_core::{DType, DeviceLocation, Result, Tensor};

use super::Streams;

/// Shape, dtype and device of every stream: what must not change between a stored residual and its use. Whether both streams
/// lie in one sequence does not count: what stands in for blocks that join them has them apart.
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

//! How tensors are kept between passes.

use candle_core::{DType, Device, Result};

use crate::{Streams, half};

/// Dtype, place and size limit of what a session keeps. Metrics are taken before a tensor is stored.
#[derive(Clone, Debug, Default)]
pub struct StoragePolicy {
    /// Dtype of stored residuals; `None` keeps the model's.
    pub dtype: Option<DType>,
    /// Device of stored residuals; `None` keeps the model's.
    pub device: Option<Device>,
    /// Most bytes of a session; `None` for no limit.
    pub budget: Option<usize>,
}

/// Streams as a policy stores them; [`Stored::load`] gives back the dtype and device that they came in.
#[derive(Clone, Debug)]
pub struct Stored {
    streams: Streams,
    dtype: DType,
    device: Device,
}

crate::fields!(Stored { streams, dtype, device });

impl Stored {
    /// Converts and moves; copies nothing when the policy changes nothing.
    pub fn new(streams: &Streams, policy: &StoragePolicy) -> Result<Self> {
        let image = streams.image()?;
        let stored = streams.map(|t| {
            let t = half::to_dtype(t, policy.dtype.unwrap_or(t.dtype()))?;
            policy.device.as_ref().map_or(Ok(t.clone()), |device| t.to_device(device))
        })?;
        Ok(Self { streams: stored, dtype: image.dtype(), device: image.device().clone() })
    }

    /// The streams in their first dtype and place.
    pub fn load(&self) -> Result<Streams> {
        self.streams.map(|t| half::to_dtype(&t.to_device(&self.device)?, self.dtype))
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.streams.bytes()
    }
}

//! A tensor on the device where a policy keeps it.

#[cfg(feature = "cuda")]
use std::sync::Arc;

use candle_core::{Device, Result, Tensor};

#[cfg(feature = "cuda")]
use super::pinned::Pinned;
use super::storage::StoragePolicy;
use crate::snapshot::{Field, Reader, SnapshotError, Writer};

/// A tensor that was stored. Cloning copies handles.
#[derive(Clone, Debug)]
pub(super) enum Kept {
    Tensor(Tensor),
    /// Of an NVIDIA GPU, on its way to the host or there.
    #[cfg(feature = "cuda")]
    Pinned(Arc<Pinned>),
}

impl Kept {
    /// Does not copy if the policy names no other device. From an NVIDIA GPU to the host the copy runs beside
    /// what is computed next.
    pub(super) fn new(t: Tensor, policy: &StoragePolicy) -> Result<Self> {
        match (&policy.device, t.device()) {
            (None, _) => Ok(Self::Tensor(t)),
            #[cfg(feature = "cuda")]
            (Some(Device::Cpu), Device::Cuda(from)) if Pinned::can_keep(&t, from) => {
                Pinned::new(&t, from, &policy.buffers).map(|pinned| Self::Pinned(Arc::new(pinned)))
            }
            (Some(device), _) => t.to_device(device).map(Self::Tensor),
        }
    }

    /// The tensor on the model's device.
    pub(super) fn on(&self, device: &Device) -> Result<Tensor> {
        match self {
            Self::Tensor(t) => t.to_device(device),
            #[cfg(feature = "cuda")]
            Self::Pinned(pinned) => pinned.on(device),
        }
    }

    #[cfg(test)]
    pub(super) fn dtype(&self) -> candle_core::DType {
        match self {
            Self::Tensor(t) => t.dtype(),
            #[cfg(feature = "cuda")]
            Self::Pinned(pinned) => pinned.dtype(),
        }
    }

    /// Whether it holds neither NaN nor infinity; those that are not on the host are not looked at.
    pub(super) fn is_finite_on_host(&self) -> Result<bool> {
        match self {
            Self::Tensor(t) => crate::metrics::is_finite_on_host(t),
            #[cfg(feature = "cuda")]
            Self::Pinned(_) => Ok(true),
        }
    }
}

impl Field for Kept {
    fn write(&self, to: &mut Writer<'_>) {
        match self {
            Self::Tensor(t) => t.write(to),
            // Of a device that has failed nothing is written, and reading says what is missing.
            #[cfg(feature = "cuda")]
            Self::Pinned(pinned) => _ = pinned.on(&Device::Cpu).map(|t| t.write(to)),
        }
    }

    fn read(from: &Reader<'_>) -> std::result::Result<Self, SnapshotError> {
        Tensor::read(from).map(Self::Tensor)
    }

    fn tensor_bytes(&self) -> usize {
        match self {
            Self::Tensor(t) => t.tensor_bytes(),
            #[cfg(feature = "cuda")]
            Self::Pinned(pinned) => pinned.len(),
        }
    }

    fn whole_tensor_bytes(&self) -> usize {
        match self {
            Self::Tensor(t) => t.whole_tensor_bytes(),
            #[cfg(feature = "cuda")]
            Self::Pinned(pinned) => pinned.whole_bytes(),
        }
    }
}

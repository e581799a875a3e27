//! The way of tensors to the device that computes.

#[cfg(feature = "cuda")]
mod staging;

#[cfg(feature = "cuda")]
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Result, Tensor};

#[cfg(feature = "cuda")]
use self::staging::Staging;
#[cfg(feature = "cuda")]
use crate::device::is_per_thread;

/// A device and how tensors get there. Clones share what they need for that.
#[derive(Clone, Debug)]
pub(crate) struct Uploads {
    device: Device,
    /// Made when the first tensor is moved to an NVIDIA GPU.
    #[cfg(feature = "cuda")]
    staging: Arc<Mutex<Option<Staging>>>,
}

impl Uploads {
    pub(crate) fn to(device: &Device) -> Self {
        Self {
            device: device.clone(),
            #[cfg(feature = "cuda")]
            staging: Arc::default(),
        }
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// A contiguous tensor of the host, on the device. The copy to an NVIDIA GPU runs beside the kernels, if
    /// all threads share its stream; what uses the tensor waits for it there.
    pub(crate) fn place(&self, tensor: &Tensor) -> Result<Tensor> {
        match &self.device {
            #[cfg(feature = "cuda")]
            Device::Cuda(device) if !is_per_thread(device) => {
                let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
                let staging = match &mut *staging {
                    Some(staging) => staging,
                    none => none.insert(Staging::new(device)?),
                };
                staging.upload(tensor, device)
            }
            // Another thread, with another stream, is to use it.
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => {
                let moved = tensor.to_device(&self.device)?;
                self.device.synchronize()?;
                Ok(moved)
            }
            device => tensor.to_device(device),
        }
    }
}

//! What the device that computes is capable of.

#[cfg(feature = "cuda")]
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, sys::CUevent_flags};
use candle_core::{DType, Device};

/// The first compute capability whose products can be in bf16.
const BF16: (i32, i32) = (8, 0);

/// Major and minor compute capability of an NVIDIA GPU; `None` for other devices, and in builds without the
/// feature `cuda`.
pub fn compute_capability(device: &Device) -> Option<(i32, i32)> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => device.cuda_stream().context().compute_capability().ok(),
        _ => None,
    }
}

/// Whether each thread has a stream of its own on the device, as after `Device::new_cuda`: its number is
/// `CU_STREAM_PER_THREAD`.
#[cfg(feature = "cuda")]
pub(crate) fn is_per_thread(device: &candle_core::CudaDevice) -> bool {
    device.cuda_stream().cu_stream().addr() == 2
}

/// Who waits for an event sleeps.
#[cfg(feature = "cuda")]
const BLOCKING: Option<CUevent_flags> = Some(CUevent_flags::CU_EVENT_BLOCKING_SYNC);

/// A point in what a device was asked to compute.
#[derive(Debug)]
pub struct Milestone {
    #[cfg(feature = "cuda")]
    event: Option<CudaEvent>,
}

impl Milestone {
    /// Behind everything that the device was asked for until now.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "a CPU computes when it is asked"))]
    pub fn now(device: &Device) -> Self {
        Self {
            #[cfg(feature = "cuda")]
            event: match device {
                Device::Cuda(device) => device.cuda_stream().record_event(BLOCKING).ok(),
                _ => None,
            },
        }
    }

    /// Waits until the device has computed it. A device that has failed says so elsewhere.
    pub fn wait(&self) {
        #[cfg(feature = "cuda")]
        if let Some(event) = &self.event {
            _ = event.synchronize();
        }
    }
}

/// The type of half precision that a device multiplies in: bf16, or f16 on NVIDIA GPUs before Ampere.
pub fn half_precision(device: &Device) -> DType {
    half_of(compute_capability(device))
}

fn half_of(capability: Option<(i32, i32)>) -> DType {
    match capability {
        Some(card) if card < BF16 => DType::F16,
        _ => DType::BF16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_before_ampere_compute_in_f16() {
        let of = [None, Some((7, 0)), Some((7, 5)), Some((8, 0)), Some((9, 0)), Some((12, 1))];
        assert_eq!(
            of.map(half_of),
            [DType::BF16, DType::F16, DType::F16, DType::BF16, DType::BF16, DType::BF16]
        );
        assert_eq!(half_precision(&Device::Cpu), DType::BF16);
    }
}

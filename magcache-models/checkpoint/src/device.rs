//! What the device that computes is capable of.

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

//! How tensors are kept between passes.

use candle_core::{D, DType, Device, Result, Tensor};

use super::{half, kept::Kept, pinned::HostBuffers};
use crate::Streams;

/// Dtype, device and size limit for what a session stores. Metrics are computed before a tensor is stored.
#[derive(Clone, Debug, Default)]
pub struct StoragePolicy {
    /// Dtype of stored residuals; `None` keeps the model's.
    pub dtype: Option<DType>,
    /// Device of stored residuals; `None` keeps the model's.
    pub device: Option<Device>,
    /// Maximum number of bytes per session; `None` for no limit.
    pub budget: Option<usize>,
    /// Memory of the host that residuals of an NVIDIA GPU use again.
    pub buffers: HostBuffers,
}

/// Streams stored under a policy; [`Stored::load`] restores their original dtype and device.
///
/// If a value is too large for the storage dtype (65504 in f16), those of its token are divided by a common
/// divisor first, so that finite values stay finite and no precision is lost beyond that of the dtype.
#[derive(Clone, Debug)]
pub struct Stored {
    streams: Streams<Kept>,
    /// The divisor of every token, on the model's device; `None` if all values are known to fit.
    divisor: Option<Streams>,
    dtype: DType,
    device: Device,
}

crate::fields!(Stored { streams, divisor, dtype, device });

impl Stored {
    /// Converts and moves; does not copy if the policy changes nothing.
    pub fn new(streams: &Streams, policy: &StoragePolicy) -> Result<Self> {
        let image = streams.image()?;
        let convert = |streams: &Streams| {
            streams.map(|t| Kept::new(half::to_dtype(t, policy.dtype.unwrap_or(t.dtype()))?, policy))
        };
        let (dtype, device) = (image.dtype(), image.device().clone());
        let plain = || Ok(Self { streams: convert(streams)?, divisor: None, dtype, device: device.clone() });
        let Some(largest) = policy.dtype.filter(|narrow| *narrow != dtype).and_then(largest) else {
            return plain();
        };
        // On the host, skip the divisor if all values fit. On a device this check would force a
        // synchronisation.
        if device.is_cpu() {
            let stored = plain()?;
            let kept = stored.streams.tensors();
            let fits = kept.iter().try_fold(true, |fits, t| Result::Ok(fits && t.is_finite_on_host()?))?;
            if fits || !streams.is_finite_on_host()? {
                return Ok(stored);
            }
        }
        let divisor =
            streams.map(|t| t.abs()?.max_keepdim(D::Minus1)?.affine(1.0 / largest, 0.0)?.maximum(1.0))?;
        let fitting = streams.with(&divisor, Tensor::broadcast_div)?;
        Ok(Self { streams: convert(&fitting)?, divisor: Some(divisor), dtype, device })
    }

    /// The streams in their original dtype and on their original device.
    pub fn load(&self) -> Result<Streams> {
        let streams = self.streams.map(|t| half::to_dtype(&t.on(&self.device)?, self.dtype))?;
        match &self.divisor {
            Some(divisor) => streams.with(divisor, Tensor::broadcast_mul),
            None => Ok(streams),
        }
    }
}

/// Slightly below the largest number of a half-precision dtype, so that a quotient that was rounded up still
/// fits.
fn largest(dtype: DType) -> Option<f64> {
    match dtype {
        DType::F16 => Some(65_000.0),
        DType::BF16 => Some(3.3e38),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(values: &[f32], dtype: DType) -> Streams {
        let t = Tensor::from_slice(values, (1, 1, values.len()), &Device::Cpu).unwrap();
        Streams::Image(t.to_dtype(dtype).unwrap())
    }

    fn values(streams: &Streams) -> Vec<f64> {
        streams.image().unwrap().to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn what_does_not_fit_into_half_precision_stays_finite_and_close() {
        for (narrow, large) in [(DType::F16, 7e4), (DType::F16, -3e38), (DType::BF16, 3.4e38)] {
            for dtype in [DType::F32, DType::F64] {
                let policy = StoragePolicy { dtype: Some(narrow), ..StoragePolicy::default() };
                let streams = image(&[large, 0.5 * large, 0.0], dtype);
                let stored = Stored::new(&streams, &policy).unwrap();
                assert_eq!(stored.streams.tensors()[0].dtype(), narrow);
                let loaded = stored.load().unwrap();
                assert_eq!(loaded.image().unwrap().dtype(), dtype);
                for (got, want) in values(&loaded).into_iter().zip(values(&streams)) {
                    assert!(
                        (got - want).abs() <= want.abs() / 200.0,
                        "{narrow:?} of {dtype:?}: {got}, {want}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_fits_is_converted_and_nothing_else() {
        let policy = StoragePolicy { dtype: Some(DType::F16), ..StoragePolicy::default() };
        let streams = image(&[65_504.0, -1.0, 6e-8, 0.1], DType::F32);
        let stored = Stored::new(&streams, &policy).unwrap();
        assert!(stored.divisor.is_none());
        let half = streams.image().unwrap().to_dtype(DType::F16).unwrap().to_dtype(DType::F64).unwrap();
        assert_eq!(values(&stored.load().unwrap()), half.flatten_all().unwrap().to_vec1::<f64>().unwrap());
    }
}

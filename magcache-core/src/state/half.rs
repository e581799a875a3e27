//! Conversion between f32 and half precision at memory speed.
//!
//! candle converts a tensor on one core, and f16 value by value, which takes ten times as long as reading it.
//! Its slice conversions for quantized formats use the processor's instructions instead.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail, quantized::GgmlType};

use crate::threads;

/// As [`Tensor::to_dtype`], bit for bit.
pub(crate) fn to_dtype(x: &Tensor, dtype: DType) -> Result<Tensor> {
    let half = |dtype| matches!(dtype, DType::F16 | DType::BF16);
    let ours = (x.dtype() == DType::F32 && half(dtype)) || (half(x.dtype()) && dtype == DType::F32);
    if ours && x.device().is_cpu() {
        return x.contiguous()?.apply_op1_no_bwd(&Convert(dtype));
    }
    x.to_dtype(dtype)
}

struct Convert(DType);

impl CustomOp1 for Convert {
    fn name(&self) -> &'static str {
        "convert"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("{}: expected a contiguous tensor, got {:?}", self.name(), layout.dims())
        };
        let out = match (x, self.0) {
            (CpuStorage::F32(x), DType::F16) => CpuStorage::F16(narrow(&x[start..end])),
            (CpuStorage::F32(x), DType::BF16) => CpuStorage::BF16(narrow(&x[start..end])),
            (CpuStorage::F16(x), DType::F32) => CpuStorage::F32(widen(&x[start..end])),
            (CpuStorage::BF16(x), DType::F32) => CpuStorage::F32(widen(&x[start..end])),
            (_, dtype) => bail!("{}: not to {dtype:?}", self.name()),
        };
        Ok((out, layout.shape().clone()))
    }
}

fn narrow<T: GgmlType>(x: &[f32]) -> Vec<T> {
    let mut out = vec![T::zeros(); x.len()];
    threads::by_part_of(&mut out, threads::PART, |part, out| T::from_float(&x[part], out));
    out
}

fn widen<T: GgmlType>(x: &[T]) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    threads::by_part_of(&mut out, threads::PART, |part, out| T::to_float(&x[part], out));
    out
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn bits(x: &Tensor) -> Result<Vec<u32>> {
        let values: Vec<f32> = x.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        Ok(values.into_iter().map(f32::to_bits).collect())
    }

    #[test]
    fn every_bit_is_candles() -> Result<()> {
        // Every exponent, with mantissas at, next to and between the values of both formats, including
        // infinities and NaN.
        let some = (0..=u32::from(u16::MAX))
            .flat_map(|high| [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff].map(|low| high << 16 | low));
        let values: Vec<f32> = some.map(f32::from_bits).collect();
        let x = Tensor::new(values, &Device::Cpu)?.reshape(((), 6))?;
        for dtype in [DType::F16, DType::BF16] {
            for x in [x.clone(), x.narrow(0, 7, 1000)?, x.t()?] {
                let (ours, candles) = (to_dtype(&x, dtype)?, x.to_dtype(dtype)?);
                assert_eq!((ours.dtype(), ours.dims()), (dtype, x.dims()));
                assert_eq!(bits(&ours)?, bits(&candles)?, "{dtype:?}");
                let (ours, candles) = (to_dtype(&candles, DType::F32)?, candles.to_dtype(DType::F32)?);
                assert_eq!(ours.dtype(), DType::F32);
                assert_eq!(bits(&ours)?, bits(&candles)?, "{dtype:?}");
            }
        }
        Ok(())
    }

    #[test]
    fn other_types_are_left_to_candle() -> Result<()> {
        let x = Tensor::new(&[1.5f64, -2.0], &Device::Cpu)?;
        assert_eq!(to_dtype(&x, DType::F16)?.dtype(), DType::F16);
        assert_eq!(to_dtype(&x, DType::F64)?.dtype(), DType::F64);
        Ok(())
    }
}

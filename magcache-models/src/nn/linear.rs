//! `x W^T + b`.

use candle_core::{CpuStorage, CustomOp1, DType, InplaceOp2, Layout, Shape, Tensor};
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::cpu::{TASK, contiguous, on_cpu, rows_per_task, vectorized};
use crate::checkpoint::{CheckpointError, Weights};

/// A linear layer with its weight `[out, in]` in the type in which it is stored.
///
/// It computes in the type of its input: a bf16 weight is widened to f32 for the call and dropped again, so that a
/// model takes the memory of its file.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// Reads `weight` `[out, in]` and, with `bias`, `bias` `[out]`.
    pub fn load(
        weights: &Weights,
        inputs: usize,
        outputs: usize,
        bias: bool,
    ) -> Result<Self, CheckpointError> {
        let weight = weights.get("weight", &[outputs, inputs])?;
        let bias = bias.then(|| weights.get_f32("bias", &[outputs])).transpose()?;
        Ok(Self { weight, bias })
    }

    /// Reads a convolution whose kernel is one pixel: `weight` `[out, in, 1, ..]` with `axes` axes of length 1, and `bias`
    /// `[out]`.
    pub fn load_pointwise(
        weights: &Weights,
        inputs: usize,
        outputs: usize,
        axes: usize,
    ) -> Result<Self, CheckpointError> {
        let mut shape = vec![outputs, inputs];
        shape.resize(2 + axes, 1);
        let weight = weights.get("weight", &shape)?.reshape((outputs, inputs))?;
        Ok(Self { weight, bias: Some(weights.get_f32("bias", &[outputs])?) })
    }

    /// From a weight `[out, in]` and a bias `[out]`.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> candle_core::Result<Self> {
        let (outputs, _) = weight.dims2()?;
        if let Some(bias) = &bias
            && bias.dims() != [outputs]
        {
            candle_core::bail!("linear: bias {:?} for {outputs} outputs", bias.shape());
        }
        Ok(Self { weight, bias })
    }

    /// `[.., in]` to `[.., out]`.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (outputs, inputs) = self.weight.dims2()?;
        let mut shape = x.dims().to_vec();
        match shape.last_mut() {
            Some(last) if *last == inputs => *last = outputs,
            _ => candle_core::bail!("linear: got {:?}, expected {inputs} channels", x.shape()),
        }
        let rows = x.elem_count() / inputs.max(1);
        let y = x.reshape((rows, inputs))?.matmul(&widened(&self.weight, x.dtype())?.t()?)?;
        match &self.bias {
            None => y,
            Some(bias) if on_cpu(&y) => {
                y.inplace_op2(&bias.to_dtype(DType::F32)?, &AddBias)?;
                y
            }
            Some(bias) => y.broadcast_add(&bias.to_dtype(y.dtype())?)?,
        }
        .reshape(shape)
    }
}

/// The tensor in the given type; half precision to f32 on the CPU runs on all cores.
pub(super) fn widened(weight: &Tensor, dtype: DType) -> candle_core::Result<Tensor> {
    match weight.dtype() {
        DType::F16 | DType::BF16 if dtype == DType::F32 && weight.device().is_cpu() => {
            weight.apply_op1_no_bwd(&Widen)
        }
        _ => weight.to_dtype(dtype),
    }
}

struct Widen;

impl CustomOp1 for Widen {
    fn name(&self) -> &'static str {
        "widen"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("widen: expected a contiguous tensor of shape {:?}", layout.dims())
        };
        let mut out = vec![0f32; end - start];
        match x {
            CpuStorage::BF16(x) => widen(x.get(start..end).unwrap_or_default(), &mut out),
            CpuStorage::F16(x) => widen(x.get(start..end).unwrap_or_default(), &mut out),
            _ => candle_core::bail!("widen: expected f16 or bf16"),
        }
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

fn widen<T: Sync>(x: &[T], out: &mut [f32])
where
    [T]: HalfFloatSliceExt,
{
    out.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).for_each(|(out, x)| x.convert_to_f32_slice(out));
}

/// Adds `[channels]` to every row of a tensor that nobody else holds.
struct AddBias;

impl InplaceOp2 for AddBias {
    fn name(&self) -> &'static str {
        "add-bias"
    }

    fn cpu_fwd(
        &self,
        x: &mut CpuStorage,
        x_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> candle_core::Result<()> {
        let bias = contiguous(self.name(), bias, bias_layout)?;
        let (CpuStorage::F32(x), Some((start, end))) = (x, x_layout.contiguous_offsets()) else {
            candle_core::bail!("add-bias: expected a contiguous f32 tensor")
        };
        let channels = bias.len().max(1);
        x.get_mut(start..end)
            .unwrap_or_default()
            .par_chunks_mut(rows_per_task(channels) * channels)
            .for_each(|x| {
                vectorized(|| {
                    for row in x.chunks_exact_mut(channels) {
                        for (x, bias) in row.iter_mut().zip(bias) {
                            *x += bias;
                        }
                    }
                });
            });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn half_precision_weights_give_what_their_f32_values_give() -> candle_core::Result<()> {
        let weight = Tensor::randn(0f32, 1.0, (70, 33), &Device::Cpu)?;
        let bias = Tensor::randn(0f32, 1.0, 70, &Device::Cpu)?;
        let x = Tensor::randn(0f32, 1.0, (2, 5, 33), &Device::Cpu)?;
        for dtype in [DType::BF16, DType::F16, DType::F32] {
            let stored = weight.to_dtype(dtype)?;
            let plain = x.broadcast_matmul(&stored.to_dtype(DType::F32)?.t()?)?.broadcast_add(&bias)?;
            let ours = Linear::new(stored, Some(bias.clone()))?.forward(&x)?;
            assert_eq!(ours.dims(), [2, 5, 70]);
            let error = (ours - plain)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
            assert!(error < 1e-5, "{dtype:?} {error}");
        }
        Ok(())
    }

    #[test]
    fn refuses_shapes_that_do_not_fit() -> candle_core::Result<()> {
        let weight = Tensor::zeros((4, 3), DType::F32, &Device::Cpu)?;
        assert!(Linear::new(weight.clone(), Some(Tensor::zeros(3, DType::F32, &Device::Cpu)?)).is_err());
        let x = Tensor::zeros((2, 4), DType::F32, &Device::Cpu)?;
        let message = Linear::new(weight, None)?.forward(&x).expect_err("4 channels for 3").to_string();
        assert!(message.contains("expected 3"), "{message}");
        Ok(())
    }
}

//! Adaptive layer norm: the row-wise operations around the attention and the feed-forward of a `DiT` block.
//!
//! Hidden states are `[batch, tokens, channels]`; shift, scale and gate `[batch or 1, tokens or 1, channels]`, which may
//! be chunks of a larger tensor. On the CPU each function is one pass over the hidden states.

use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::cpu::{contiguous, on_cpu, rows_per_task, sum_of, vectorized};

/// `layer_norm(x) * (1 + scale) + shift`, with a norm that has no weights of its own.
pub fn layer_norm_modulate(x: &Tensor, shift: &Tensor, scale: &Tensor, eps: f64) -> Result<Tensor> {
    if on_cpu(x) {
        return x.contiguous()?.apply_op3_no_bwd(shift, scale, &LayerNormModulate { eps: eps as f32 });
    }
    layer_norm_modulate_plain(x, shift, scale, eps)
}

/// `x + y * gate`.
pub fn gated_add(x: &Tensor, y: &Tensor, gate: &Tensor) -> Result<Tensor> {
    if on_cpu(x) {
        return x.contiguous()?.apply_op3_no_bwd(&y.contiguous()?, gate, &GatedAdd);
    }
    x + y.broadcast_mul(gate)?
}

fn layer_norm_modulate_plain(x: &Tensor, shift: &Tensor, scale: &Tensor, eps: f64) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    centred.broadcast_div(&deviation)?.broadcast_mul(&(scale + 1.0)?)?.broadcast_add(shift)
}

/// Rows of a `[batch or 1, tokens or 1, channels]` view, repeated along the axes of length 1.
///
/// Any strides do as long as the channels of a row lie side by side, so chunks of a larger tensor need no copy.
struct Rows<'a> {
    values: &'a [f32],
    strides: [usize; 2],
    channels: usize,
}

impl<'a> Rows<'a> {
    /// Checks the view against the `[batch, tokens, channels]` of the tensor that it goes with.
    fn new(op: &str, storage: &'a CpuStorage, layout: &Layout, like: [usize; 3]) -> Result<Self> {
        let strides = match (layout.dims(), layout.stride()) {
            (&[batch, tokens, channels], &[batch_stride, token_stride, 1])
                if (batch == 1 || batch == like[0])
                    && (tokens == 1 || tokens == like[1])
                    && channels == like[2] =>
            {
                [if batch == 1 { 0 } else { batch_stride }, if tokens == 1 { 0 } else { token_stride }]
            }
            (shape, strides) => candle_core::bail!("{op}: no rows for {like:?} in {shape:?} by {strides:?}"),
        };
        let end = strides[0] * like[0].saturating_sub(1) + strides[1] * like[1].saturating_sub(1) + like[2];
        match storage.as_slice::<f32>()?.get(layout.start_offset()..) {
            Some(values) if values.len() >= end => Ok(Self { values, strides, channels: like[2] }),
            _ => candle_core::bail!("{op}: the layout of shape {:?} exceeds its storage", layout.dims()),
        }
    }

    /// The row of token `token` in batch item `batch`.
    fn row(&self, batch: usize, token: usize) -> &'a [f32] {
        let start = batch * self.strides[0] + token * self.strides[1];
        &self.values[start..start + self.channels]
    }
}

/// Calls `kernel(out, start, batch, token)` for every row of a `[batch, tokens, channels]` result, on all cores; `start` is
/// the place of the row's first value.
fn by_token(
    [batch, tokens, channels]: [usize; 3],
    kernel: impl Fn(&mut [f32], usize, usize, usize) + Sync,
) -> Vec<f32> {
    let mut out = vec![0f32; batch * tokens * channels];
    let (rows, width) = (rows_per_task(channels), channels.max(1));
    out.par_chunks_mut(rows * width).enumerate().for_each(|(task, out)| {
        vectorized(|| {
            for (i, out) in out.chunks_exact_mut(width).enumerate() {
                let row = task * rows + i;
                kernel(out, row * width, row / tokens, row % tokens);
            }
        });
    });
    out
}

struct LayerNormModulate {
    eps: f32,
}

impl CustomOp3 for LayerNormModulate {
    fn name(&self) -> &'static str {
        "layer-norm-modulate"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        shift: &CpuStorage,
        shift_layout: &Layout,
        scale: &CpuStorage,
        scale_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, tokens, channels) = x_layout.shape().dims3()?;
        let shape = [batch, tokens, channels];
        let x = contiguous(self.name(), x, x_layout)?;
        let shift = Rows::new(self.name(), shift, shift_layout, shape)?;
        let scale = Rows::new(self.name(), scale, scale_layout, shape)?;
        let out = by_token(shape, |out, start, batch, token| {
            let x = &x[start..start + channels];
            let (shift, scale) = (shift.row(batch, token), scale.row(batch, token));
            // Two passes, as in `LayerNorm`.
            let mean = sum_of(x, |x| x) / channels as f32;
            let variance = sum_of(x, |x| (x - mean) * (x - mean)) / channels as f32;
            let inverse = (variance + self.eps).sqrt().recip();
            for (((out, x), shift), scale) in out.iter_mut().zip(x).zip(shift).zip(scale) {
                *out = (x - mean) * inverse * (1.0 + scale) + shift;
            }
        });
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }
}

struct GatedAdd;

impl CustomOp3 for GatedAdd {
    fn name(&self) -> &'static str {
        "gated-add"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        y: &CpuStorage,
        y_layout: &Layout,
        gate: &CpuStorage,
        gate_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, tokens, channels) = x_layout.shape().dims3()?;
        if x_layout.shape() != y_layout.shape() {
            candle_core::bail!("{}: {:?} and {:?} differ", self.name(), x_layout.dims(), y_layout.dims());
        }
        let x = contiguous(self.name(), x, x_layout)?;
        let y = contiguous(self.name(), y, y_layout)?;
        let gate = Rows::new(self.name(), gate, gate_layout, [batch, tokens, channels])?;
        let out = by_token([batch, tokens, channels], |out, start, batch, token| {
            let row = start..start + channels;
            let inputs = x[row.clone()].iter().zip(&y[row]).zip(gate.row(batch, token));
            for (out, ((x, y), gate)) in out.iter_mut().zip(inputs) {
                *out = x + y * gate;
            }
        });
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    fn random(shape: &[usize]) -> Result<Tensor> {
        Tensor::randn(0f32, 1.0, shape, &Device::Cpu)
    }

    fn worst(a: &Tensor, b: &Tensor) -> Result<f32> {
        (a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar()
    }

    #[test]
    fn one_pass_equals_the_formula_for_every_broadcast() -> Result<()> {
        for channels in [35, 1] {
            let x = (random(&[2, 600, channels])? + 3.0)?;
            for (batch, tokens) in [(1, 1), (2, 1), (1, 600), (2, 600)] {
                let rows = random(&[batch, tokens, 3 * channels])?.chunk(3, 2)?;
                let fused = layer_norm_modulate(&x, &rows[0], &rows[1], 1e-3)?;
                let plain = layer_norm_modulate_plain(&x, &rows[0], &rows[1], 1e-3)?;
                assert!(worst(&fused, &plain)? < 2e-5, "{batch} {tokens} {channels}");
                let y = random(&[2, 600, channels])?;
                let plain = (&x + y.broadcast_mul(&rows[2])?)?;
                assert!(worst(&gated_add(&x, &y, &rows[2])?, &plain)? < 2e-6, "{batch} {tokens} {channels}");
            }
        }
        Ok(())
    }

    #[test]
    fn refuses_rows_that_do_not_fit() -> Result<()> {
        let x = Tensor::zeros((2, 5, 35), DType::F32, &Device::Cpu)?;
        let wrong = Tensor::zeros((3, 1, 35), DType::F32, &Device::Cpu)?;
        let message =
            layer_norm_modulate(&x, &wrong, &wrong, 1e-6).expect_err("three rows for two").to_string();
        assert!(message.contains("[3, 1, 35]") && message.contains("[2, 5, 35]"), "{message}");
        assert!(gated_add(&x, &wrong, &x).is_err() && gated_add(&x, &x, &wrong).is_err());
        Ok(())
    }
}

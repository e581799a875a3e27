//! Adaptive layer norm: the row-wise operations around the attention and the feed-forward of a `DiT` block.
//!
//! Hidden states are `[batch, tokens, channels]`; shift, scale and gate
//! `[batch or 1, tokens or 1, channels]`, which may be chunks of a larger tensor. On the CPU each function is
//! one pass over the hidden states.

use candle_core::{Result, Tensor};
use magcache_checkpoint::Ops;
use pulp::Simd;

use super::{
    cpu::{Held, PIECE, RowKernel, by_value, compute, each_row, on_cpu},
    norm::Moments,
    row_op::RowOp,
};

/// `layer_norm(x) * (1 + scale) + shift`, with a norm that has no weights of its own.
pub fn layer_norm_modulate(ops: Ops, x: &Tensor, shift: &Tensor, scale: &Tensor, eps: f64) -> Result<Tensor> {
    if on_cpu(ops, x) {
        let like = x.dims3()?.into();
        let [shift, scale] = [shift, scale].map(|rows| Held::new("layer-norm-modulate", rows));
        let (shift, scale) = (Rows::new(&shift, like)?, Rows::new(&scale, like)?);
        let kernel = ModulateRows { eps: eps as f32, residual: None, shift, scale };
        return each_row("layer-norm-modulate", x, &kernel);
    }
    RowOp::Modulate { shift, scale, eps }.run(ops, x, None)
}

/// `x + y * gate`.
pub fn gated_add(ops: Ops, x: &Tensor, y: &Tensor, gate: &Tensor) -> Result<Tensor> {
    if on_cpu(ops, x) {
        let op = "gated-add";
        let like = x.dims3()?.into();
        if x.shape() != y.shape() {
            candle_core::bail!("{op}: {:?} and {:?} differ", x.dims(), y.dims());
        }
        let y = y.contiguous()?;
        let (y, gate) = (Held::new(op, &y), Held::new(op, gate));
        return each_row(op, x, &GatedRows { y: y.values()?, gate: Rows::new(&gate, like)? });
    }
    RowOp::GatedAdd { residual: x, gate }.run(ops, y, None)
}

/// `x + y`, of the same shape.
pub fn add(ops: Ops, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    if on_cpu(ops, x) && x.shape() == y.shape() {
        let y = y.contiguous()?;
        let y = Held::new("add", &y);
        let kernel = Summands { y: y.values()? };
        return compute("add", x, x.shape(), |x| by_value(x, &kernel));
    }
    RowOp::Add { residual: x }.run(ops, y, None)
}

/// Rows of a `[batch or 1, tokens or 1, channels]` view, repeated along the axes of length 1.
///
/// Any strides do as long as the channels of a row are contiguous, so chunks of a larger tensor need no copy.
pub(super) struct Rows<'a> {
    values: &'a [f32],
    strides: [usize; 2],
    tokens: usize,
    channels: usize,
}

impl<'a> Rows<'a> {
    /// Checks the view against the shape `[batch, tokens, channels]` of the tensor it is applied to.
    pub(super) fn new(view: &'a Held<'_>, like: [usize; 3]) -> Result<Self> {
        let Held { layout, op, .. } = view;
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
        match view.storage()?.as_slice::<f32>()?.get(layout.start_offset()..) {
            Some(values) if values.len() >= end => {
                Ok(Self { values, strides, tokens: like[1], channels: like[2] })
            }
            _ => candle_core::bail!("{op}: the layout of shape {:?} exceeds its storage", layout.dims()),
        }
    }

    /// The row to apply to row `index` of that tensor, counted over the batch.
    #[inline(always)]
    pub(super) fn row(&self, index: usize) -> &'a [f32] {
        let start = match self.strides {
            // Avoids two divisions per row.
            [0, 0] => 0,
            [batch, token] => index / self.tokens * batch + index % self.tokens * token,
        };
        &self.values[start..start + self.channels]
    }
}

/// [`layer_norm_modulate`], row by row.
pub(super) struct ModulateRows<'a> {
    pub(super) eps: f32,
    /// Added first.
    pub(super) residual: Option<&'a [f32]>,
    pub(super) shift: Rows<'a>,
    pub(super) scale: Rows<'a>,
}

impl RowKernel for ModulateRows<'_> {
    #[inline(always)]
    fn row<S: Simd>(&self, simd: S, index: usize, out: &mut [f32], x: &[f32]) {
        self.rows(simd, index, out, out.len(), x, x.len());
    }

    #[inline(always)]
    fn rows<S: Simd>(
        &self,
        simd: S,
        first: usize,
        out: &mut [f32],
        out_width: usize,
        x: &[f32],
        width: usize,
    ) {
        let few = Moments::rows(width);
        for (i, (out, x)) in out.chunks_mut(few * out_width).zip(x.chunks(few * width)).enumerate() {
            let first = first + i * few;
            let moments = match self.residual {
                None => Moments::of(simd, x, width, self.eps),
                Some(residual) => {
                    for (out, (x, residual)) in out.iter_mut().zip(x.iter().zip(&residual[first * width..])) {
                        *out = x + residual;
                    }
                    Moments::of(simd, out, width, self.eps)
                }
            };
            let rows = out.chunks_exact_mut(out_width).zip(x.chunks_exact(width));
            for (((out, x), moments), index) in rows.zip(moments.each()).zip(first..) {
                let modulation = self.shift.row(index).iter().zip(self.scale.row(index));
                match self.residual {
                    None => {
                        for ((out, x), modulation) in out.iter_mut().zip(x).zip(modulation) {
                            *out = modulated(*x, moments, modulation);
                        }
                    }
                    Some(_) => {
                        for (x, modulation) in out.iter_mut().zip(modulation) {
                            *x = modulated(*x, moments, modulation);
                        }
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn modulated(x: f32, (mean, inverse): (&f32, &f32), (shift, scale): (&f32, &f32)) -> f32 {
    (x - mean) * inverse * (1.0 + scale) + shift
}

struct GatedRows<'a> {
    y: &'a [f32],
    gate: Rows<'a>,
}

impl RowKernel for GatedRows<'_> {
    #[inline(always)]
    fn row<S: Simd>(&self, _: S, index: usize, out: &mut [f32], x: &[f32]) {
        let y = &self.y[index * x.len()..][..x.len()];
        for ((out, x), (y, gate)) in out.iter_mut().zip(x).zip(y.iter().zip(self.gate.row(index))) {
            *out = x + y * gate;
        }
    }
}

struct Summands<'a> {
    y: &'a [f32],
}

impl RowKernel for Summands<'_> {
    #[inline(always)]
    fn row<S: Simd>(&self, _: S, index: usize, out: &mut [f32], x: &[f32]) {
        let y = &self.y[index * PIECE..][..x.len()];
        for (out, (x, y)) in out.iter_mut().zip(x.iter().zip(y)) {
            *out = x + y;
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::testing::{random, worst};

    #[test]
    fn one_pass_equals_the_formula_for_every_broadcast() -> Result<()> {
        for channels in [35, 1] {
            let x = (random(&[2, 600, channels])? + 3.0)?;
            for (batch, tokens) in [(1, 1), (2, 1), (1, 600), (2, 600)] {
                let rows = random(&[batch, tokens, 3 * channels])?.chunk(3, 2)?;
                let fused = layer_norm_modulate(Ops::Kernels, &x, &rows[0], &rows[1], 1e-3)?;
                let plain =
                    RowOp::Modulate { shift: &rows[0], scale: &rows[1], eps: 1e-3 }.plain(&x, None)?;
                assert!(worst(&fused, &plain)? < 2e-5, "{batch} {tokens} {channels}");
                let y = random(&[2, 600, channels])?;
                let plain = (&x + y.broadcast_mul(&rows[2])?)?;
                assert!(
                    worst(&gated_add(Ops::Kernels, &x, &y, &rows[2])?, &plain)? < 2e-6,
                    "{batch} {tokens} {channels}"
                );
            }
        }
        Ok(())
    }

    #[test]
    fn refuses_rows_that_do_not_fit() -> Result<()> {
        let x = Tensor::zeros((2, 5, 35), DType::F32, &Device::Cpu)?;
        let wrong = Tensor::zeros((3, 1, 35), DType::F32, &Device::Cpu)?;
        let message = layer_norm_modulate(Ops::Kernels, &x, &wrong, &wrong, 1e-6)
            .expect_err("three rows for two")
            .to_string();
        assert!(message.contains("[3, 1, 35]") && message.contains("[2, 5, 35]"), "{message}");
        assert!(
            gated_add(Ops::Kernels, &x, &wrong, &x).is_err()
                && gated_add(Ops::Kernels, &x, &x, &wrong).is_err()
        );
        Ok(())
    }
}

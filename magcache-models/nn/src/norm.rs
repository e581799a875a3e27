//! Norms over the channels, in f32 whatever the type of the input.

use candle_core::{DType, Tensor};
use pulp::Simd;

use super::{
    cpu::{Held, RowKernel, each_row, last_axis, on_cpu, sum, sum_of_squares},
    row_op::RowOp,
};
use magcache_checkpoint::{CheckpointError, Ops, Weights};

/// `(x - mean) / sqrt(variance + eps) * weight + bias` over the last axis.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
    ops: Ops,
}

impl LayerNorm {
    /// Reads `weight` and `bias`, both `[channels]`.
    pub fn load(weights: &Weights, channels: usize, eps: f64) -> Result<Self, CheckpointError> {
        Ok(Self {
            weight: weights.get_f32("weight", &[channels])?,
            bias: weights.get_f32("bias", &[channels])?,
            eps,
            ops: weights.ops(),
        })
    }

    /// `[.., channels]` to the same shape and type.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let wide = x.to_dtype(DType::F32)?;
        if !on_cpu(self.ops, &wide) {
            let Self { weight, bias, eps, .. } = self;
            return RowOp::LayerNorm { weight, bias, eps: *eps }.run(self.ops, x, None);
        }
        let channels = last_axis(x);
        let [weight, bias] = [&self.weight, &self.bias].map(|x| Held::new("layer-norm", x));
        let (weight, bias) = (weight.per_channel(channels)?, bias.per_channel(channels)?);
        let kernel = LayerNormRows { eps: self.eps as f32, weight, bias };
        each_row("layer-norm", &wide, &kernel)?.to_dtype(x.dtype())
    }
}

/// `x / sqrt(mean(x²) + eps) * weight` over the last axis.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
    ops: Ops,
}

impl RmsNorm {
    /// Reads `weight` `[channels]`.
    pub fn load(weights: &Weights, channels: usize, eps: f64) -> Result<Self, CheckpointError> {
        Ok(Self { weight: weights.get_f32("weight", &[channels])?, eps, ops: weights.ops() })
    }

    /// From a weight `[channels]` in f32.
    pub fn new(ops: Ops, weight: Tensor, eps: f64) -> Self {
        Self { weight, eps, ops }
    }

    /// The weight, `[channels]` in f32, for kernels that norm and do more.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// What is added to the mean square.
    pub fn eps(&self) -> f64 {
        self.eps
    }

    /// `[.., channels]` to the same shape and type.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let wide = x.to_dtype(DType::F32)?;
        if !on_cpu(self.ops, &wide) {
            return self.as_op().run(self.ops, x, None);
        }
        let weight = Held::new("rms-norm", &self.weight);
        let weight = weight.per_channel(last_axis(x))?;
        let kernel = RmsNormRows { eps: self.eps as f32, weight };
        each_row("rms-norm", &wide, &kernel)?.to_dtype(x.dtype())
    }

    /// As what follows a product.
    pub(super) fn as_op(&self) -> RowOp<'_> {
        RowOp::RmsNorm { weight: &self.weight, eps: self.eps }
    }
}

struct LayerNormRows<'a> {
    eps: f32,
    weight: &'a [f32],
    bias: &'a [f32],
}

impl RowKernel for LayerNormRows<'_> {
    #[inline(always)]
    fn row<S: Simd>(&self, simd: S, index: usize, out: &mut [f32], x: &[f32]) {
        self.rows(simd, index, out, out.len(), x, x.len());
    }

    #[inline(always)]
    fn rows<S: Simd>(&self, simd: S, _: usize, out: &mut [f32], out_width: usize, x: &[f32], width: usize) {
        let few = Moments::rows(width);
        for (out, x) in out.chunks_mut(few * out_width).zip(x.chunks(few * width)) {
            let moments = Moments::of(simd, x, width, self.eps);
            let rows = out.chunks_exact_mut(out_width).zip(x.chunks_exact(width));
            for ((out, x), (mean, inverse)) in rows.zip(moments.each()) {
                for (((out, x), weight), bias) in out.iter_mut().zip(x).zip(self.weight).zip(self.bias) {
                    *out = (x - mean) * inverse * weight + bias;
                }
            }
        }
    }
}

/// Means of a few rows and the reciprocals of their deviations. Several rows at a time, because within one
/// row each step waits for the one before: sums, a mean, sums, a root, a division.
pub(super) struct Moments {
    mean: [f32; Self::MOST],
    inverse: [f32; Self::MOST],
}

impl Moments {
    const MOST: usize = 8;

    /// How many rows stay in the L1 cache from one pass to the next.
    #[inline(always)]
    pub(super) fn rows(width: usize) -> usize {
        const CACHE: usize = 1 << 12;
        (CACHE / width.max(1)).clamp(1, Self::MOST)
    }

    /// For at most [`Moments::rows`] rows. Two passes, because the sum of squares minus the squared mean
    /// loses precision if the mean is large.
    #[inline(always)]
    pub(super) fn of<S: Simd>(simd: S, x: &[f32], width: usize, eps: f32) -> Self {
        let (share, mut mean, mut inverse) = ((width as f32).recip(), [0.0; Self::MOST], [1.0; Self::MOST]);
        for (mean, x) in mean.iter_mut().zip(x.chunks_exact(width)) {
            *mean = sum(simd, x) * share;
        }
        for (inverse, (x, mean)) in inverse.iter_mut().zip(x.chunks_exact(width).zip(&mean)) {
            *inverse = sum_of_squares(simd, x, *mean) * share;
        }
        for variance in &mut inverse {
            *variance = (*variance + eps).sqrt().recip();
        }
        Self { mean, inverse }
    }

    /// Of each row.
    #[inline(always)]
    pub(super) fn each(&self) -> impl Iterator<Item = (&f32, &f32)> {
        self.mean.iter().zip(&self.inverse)
    }
}

/// Norms rows.
pub(super) struct RmsNormRows<'a> {
    pub(super) eps: f32,
    pub(super) weight: &'a [f32],
}

impl RmsNormRows<'_> {
    /// Norms a row in place.
    #[inline(always)]
    pub(super) fn norm<S: Simd>(&self, simd: S, row: &mut [f32]) {
        let inverse = (sum_of_squares(simd, row, 0.0) / row.len() as f32 + self.eps).sqrt().recip();
        for (x, weight) in row.iter_mut().zip(self.weight) {
            *x = *x * inverse * weight;
        }
    }
}

impl RowKernel for RmsNormRows<'_> {
    #[inline(always)]
    fn row<S: Simd>(&self, simd: S, _: usize, out: &mut [f32], x: &[f32]) {
        out.copy_from_slice(x);
        self.norm(simd, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{random, worst};

    #[test]
    fn kernels_agree_with_candle() -> candle_core::Result<()> {
        for channels in [1, 35, 64] {
            let x = (random(&[2, 50, channels])? + 3.0)?;
            let weight = random(&[channels])?;
            let bias = random(&[channels])?;
            let ours = LayerNorm { ops: Ops::Kernels, weight: weight.clone(), bias: bias.clone(), eps: 1e-3 }
                .forward(&x)?;
            assert!(worst(&ours, &candle_nn::ops::layer_norm_slow(&x, &weight, &bias, 1e-3)?)? < 2e-5);
            let ours = RmsNorm { ops: Ops::Kernels, weight: weight.clone(), eps: 1e-3 }.forward(&x)?;
            assert!(worst(&ours, &candle_nn::ops::rms_norm_slow(&x, &weight, 1e-3)?)? < 1e-5);
        }
        Ok(())
    }
}

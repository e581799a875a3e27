//! Convolution over time, with the channels last.
//!
//! The tokens under the kernel lie side by side in memory, so each group of a convolution is one matrix
//! product whose rows overlap; nothing is gathered.

use std::{borrow::Cow, sync::Arc};

use candle_core::{DType, Tensor};
use magcache_checkpoint::{CheckpointError, Ops, Weights};

use super::{
    cpu::{Held, compute, zeros},
    matmul::{Onto, Panels, Rows, Target, Values, by_rows, product},
    weight::Weight,
};

/// Shape of a convolution over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv1dConfig {
    /// Tokens under the kernel.
    pub kernel: usize,
    /// Distance between outputs.
    pub stride: usize,
    /// Zeros before and after the input.
    pub padding: (usize, usize),
    /// Parts of the channels that do not see each other.
    pub groups: usize,
}

impl Conv1dConfig {
    /// Outputs for `tokens` inputs: 0 if those are fewer than the kernel.
    pub fn tokens(&self, tokens: usize) -> usize {
        let padded = tokens + self.padding.0 + self.padding.1;
        padded.checked_sub(self.kernel).map_or(0, |rest| rest / self.stride.max(1) + 1)
    }
}

/// A convolution over time with a bias.
///
/// On the CPU an f32 weight is stored in the order in which products read it; a half-precision weight stays
/// as it is and is widened for each call. Elsewhere it computes in the type of its input.
#[derive(Clone, Debug)]
pub struct Conv1d {
    /// `[out, in / groups, kernel]`, or the matrices of the groups.
    weight: Weight<Arc<Vec<Panels>>>,
    /// `[out]` in f32.
    bias: Tensor,
    inputs: usize,
    config: Conv1dConfig,
    ops: Ops,
}

impl Conv1d {
    /// Reads `weight` `[out, in / groups, kernel]` and `bias` `[out]`.
    pub fn load(
        weights: &Weights,
        inputs: usize,
        outputs: usize,
        config: Conv1dConfig,
    ) -> Result<Self, CheckpointError> {
        let weight = weights.get("weight", &[outputs, inputs / config.groups.max(1), config.kernel])?;
        Ok(Self::new(weights.ops(), weight, weights.get_f32("bias", &[outputs])?, config)?)
    }

    /// From a weight `[out, in / groups, kernel]` and a bias `[out]`.
    ///
    /// # Errors
    /// Shapes that do not fit each other or the groups.
    pub fn new(ops: Ops, weight: Tensor, bias: Tensor, config: Conv1dConfig) -> candle_core::Result<Self> {
        let (outputs, inputs, kernel) = weight.dims3()?;
        let Conv1dConfig { groups, stride, .. } = config;
        let fits = kernel == config.kernel && bias.dims() == [outputs];
        if !fits || groups == 0 || stride == 0 || outputs % groups != 0 || outputs * inputs * kernel == 0 {
            candle_core::bail!(
                "convolution: a weight of {:?} and a bias of {:?} do not fit {config:?}",
                weight.shape(),
                bias.shape()
            );
        }
        let bias = bias.to_dtype(DType::F32)?.contiguous()?;
        let weight = Weight::new(ops, weight, |weight| panels(weight, groups))?;
        Ok(Self { weight, bias, inputs: inputs * groups, config, ops })
    }

    /// Shape of the convolution.
    pub fn config(&self) -> &Conv1dConfig {
        &self.config
    }

    /// `[batch, tokens, in]` to `[batch, tokens, out]`.
    ///
    /// # Errors
    /// Other channels, or fewer tokens than the kernel.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let Conv1dConfig { stride, padding, groups, .. } = self.config;
        let (batch, tokens, channels) = x.dims3()?;
        let (length, outputs) = (self.config.tokens(tokens), self.bias.dim(0)?);
        if channels != self.inputs || length == 0 {
            candle_core::bail!(
                "convolution: {:?} for {} channels, {:?}",
                x.shape(),
                self.inputs,
                self.config
            );
        }
        let x = x.pad_with_zeros(1, padding.0, padding.1)?;
        let panels = match self.weight.of_product(self.ops, &x, |weight| panels(weight, groups))? {
            Weight::Prepared(panels) => panels,
            Weight::Stored(weight) => return self.plain(&x, &weight),
        };
        let bias = Held::new("conv1d", &self.bias);
        let bias = bias.per_channel(outputs)?;
        let line = x.dim(1)? * channels;
        compute("conv1d", &x, (batch, length, outputs), |x| {
            let mut out = zeros(batch * length * outputs);
            for (x, out) in x.chunks_exact(line).zip(out.chunks_exact_mut(length * outputs)) {
                for (group, weight) in panels.iter().enumerate() {
                    let (inputs, columns) = (channels / groups, outputs / groups);
                    let x = part(x, channels, group * inputs, inputs);
                    let bias = &bias[group * columns..][..columns];
                    by_rows(out, outputs, weight.rows_per_task(), |first, out| {
                        let count = out.len() / outputs;
                        let lhs =
                            Rows { values: &x[first * stride * inputs..], stride: stride * inputs, count };
                        let values = &mut out[group * columns..];
                        let target = Target { values, stride: outputs, columns, onto: Onto::Bias(bias) };
                        product(lhs, weight, 0, target, &());
                    });
                }
            }
            out
        })
    }

    /// candle's convolution of an input that is already padded.
    fn plain(&self, x: &Tensor, weight: &Tensor) -> candle_core::Result<Tensor> {
        let Conv1dConfig { stride, groups, .. } = self.config;
        let x = x.transpose(1, 2)?.contiguous()?;
        let y = x.conv1d(&weight.to_dtype(x.dtype())?, 0, stride, 1, groups)?;
        y.transpose(1, 2)?.contiguous()?.broadcast_add(&self.bias.to_dtype(x.dtype())?)
    }
}

/// One matrix per group, `[kernel * in / groups, out / groups]`.
fn panels(weight: &Tensor, groups: usize) -> candle_core::Result<Arc<Vec<Panels>>> {
    let (outputs, inputs, kernel) = weight.dims3()?;
    let columns = outputs / groups;
    let of_group = |group: usize| {
        let rows = weight.narrow(0, group * columns, columns)?.permute((2, 1, 0))?.contiguous()?;
        Ok(Panels::from_rows(Values::of(&Held::new("conv1d", &rows))?, columns, kernel * inputs, columns))
    };
    (0..groups).map(of_group).collect::<candle_core::Result<_>>().map(Arc::new)
}

/// Some channels of every token, side by side.
fn part(x: &[f32], channels: usize, first: usize, count: usize) -> Cow<'_, [f32]> {
    if count == channels {
        return Cow::Borrowed(x);
    }
    x.chunks_exact(channels).flat_map(|token| &token[first..first + count]).copied().collect()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::testing::{largest, random, worst};

    const PLAIN: Conv1dConfig = Conv1dConfig { kernel: 3, stride: 1, padding: (0, 0), groups: 1 };

    #[test]
    fn kernels_agree_with_candle() -> candle_core::Result<()> {
        for ([batch, tokens, inputs, outputs], config) in [
            ([1, 403, 1, 10], Conv1dConfig { kernel: 10, stride: 5, ..PLAIN }),
            ([2, 57, 6, 11], Conv1dConfig { stride: 2, ..PLAIN }),
            ([1, 700, 520, 70], Conv1dConfig { kernel: 2, stride: 2, ..PLAIN }),
            ([2, 30, 12, 8], Conv1dConfig { kernel: 16, padding: (8, 8), groups: 4, ..PLAIN }),
            ([1, 300, 96, 96], Conv1dConfig { kernel: 128, padding: (64, 63), groups: 3, ..PLAIN }),
            ([1, 3, 5, 2], PLAIN),
        ] {
            let weight = random(&[outputs, inputs / config.groups, config.kernel])?;
            let bias = random(&[outputs])?;
            let conv = |ops| Conv1d::new(ops, weight.clone(), bias.clone(), config);
            let x = random(&[batch, tokens, inputs])?;
            let (ours, plain) = (conv(Ops::Kernels)?.forward(&x)?, conv(Ops::Reference)?.forward(&x)?);
            assert_eq!(ours.dims(), [batch, config.tokens(tokens), outputs]);
            let (error, scale) = (worst(&ours, &plain)?, largest(&plain)?);
            // Sums of up to 4096 products in two orders.
            assert!(error < 1e-5 * scale, "{config:?}: {error} of {scale}");
        }
        Ok(())
    }

    #[test]
    fn a_part_of_the_input_gives_the_same_bits() -> candle_core::Result<()> {
        let config = Conv1dConfig { kernel: 3, stride: 2, ..PLAIN };
        let conv = Conv1d::new(Ops::Kernels, random(&[40, 24, 3])?, random(&[40])?, config)?;
        let x = random(&[1, 601, 24])?;
        let (whole, part) = (conv.forward(&x)?, conv.forward(&x.narrow(1, 2 * 37, 2 * 70 + 1)?)?);
        assert_eq!(worst(&whole.narrow(1, 37, 70)?, &part)?, 0.0);
        Ok(())
    }

    #[test]
    fn half_precision_weights_are_widened() -> candle_core::Result<()> {
        let (weight, bias) = (random(&[8, 4, 3])?.to_dtype(DType::BF16)?, random(&[8])?);
        let x = random(&[1, 20, 4])?;
        let half = Conv1d::new(Ops::Kernels, weight.clone(), bias.clone(), PLAIN)?.forward(&x)?;
        let wide = Conv1d::new(Ops::Kernels, weight.to_dtype(DType::F32)?, bias, PLAIN)?.forward(&x)?;
        assert_eq!(worst(&half, &wide)?, 0.0);
        Ok(())
    }

    #[test]
    fn refuses_what_does_not_fit() -> candle_core::Result<()> {
        let (weight, bias) = (random(&[8, 4, 3])?, random(&[8])?);
        let conv = |config| Conv1d::new(Ops::Kernels, weight.clone(), bias.clone(), config);
        for wrong in [
            Conv1dConfig { kernel: 4, ..PLAIN },
            Conv1dConfig { groups: 3, ..PLAIN },
            Conv1dConfig { stride: 0, ..PLAIN },
        ] {
            assert!(conv(wrong).is_err(), "{wrong:?}");
        }
        for (tokens, channels) in [(2, 4), (5, 3), (0, 4)] {
            let x = Tensor::zeros((1, tokens, channels), DType::F32, &Device::Cpu)?;
            assert!(conv(PLAIN)?.forward(&x).is_err(), "{tokens} {channels}");
        }
        Ok(())
    }
}

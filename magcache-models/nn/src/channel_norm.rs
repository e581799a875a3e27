//! The norm of the VAE: `x / max(|x|, 1e-12) * sqrt(channels) * gamma` over the channels, optionally followed
//! by `SiLU`.

use candle_core::{D, Tensor};
use pulp::Simd;

use magcache_checkpoint::{CheckpointError, Ops, Weights};

use crate::{
    cpu::{self, Held, RowKernel},
    silu,
};

/// Smallest norm that a vector is divided by.
const FLOOR: f32 = 1e-12;

/// An RMS norm without epsilon, as `WanRMS_norm` of diffusers.
#[derive(Clone, Debug)]
pub struct ChannelNorm {
    /// `[channels]`, already multiplied by the square root of the number of channels.
    gamma: Tensor,
    ops: Ops,
}

impl ChannelNorm {
    /// Reads `gamma` `[channels, 1, ..]`; `axes` is how many axes of length 1 follow the channels.
    pub fn load(weights: &Weights, channels: usize, axes: usize) -> Result<Self, CheckpointError> {
        let mut shape = vec![channels];
        shape.resize(1 + axes, 1);
        let gamma = weights.get_f32("gamma", &shape)?.reshape(channels)?;
        Ok(Self { gamma: (gamma * (channels as f64).sqrt())?, ops: weights.ops() })
    }

    /// `[.., channels]` to the same shape.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.run(x, false)
    }

    /// [`Self::forward`] and `SiLU`.
    pub fn forward_silu(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.run(x, true)
    }

    fn run(&self, x: &Tensor, silu: bool) -> candle_core::Result<Tensor> {
        if cpu::on_cpu(self.ops, x) {
            let gamma = Held::new("channel-norm", &self.gamma);
            let gamma = gamma.per_channel(cpu::last_axis(x))?;
            return cpu::each_row("channel-norm", x, &NormRows { gamma, silu });
        }
        self.plain(x, silu)
    }

    fn plain(&self, x: &Tensor, with_silu: bool) -> candle_core::Result<Tensor> {
        let length = x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?.maximum(f64::from(FLOOR))?;
        let y = x.broadcast_div(&length)?.broadcast_mul(&self.gamma.to_dtype(x.dtype())?)?;
        if with_silu { silu(self.ops, &y) } else { Ok(y) }
    }
}

struct NormRows<'a> {
    gamma: &'a [f32],
    silu: bool,
}

impl RowKernel for NormRows<'_> {
    #[inline(always)]
    fn row<S: Simd>(&self, simd: S, _: usize, out: &mut [f32], x: &[f32]) {
        let inverse = cpu::sum_of_squares(simd, x, 0.0).sqrt().max(FLOOR).recip();
        for ((out, x), gamma) in out.iter_mut().zip(x).zip(self.gamma) {
            let y = x * inverse * gamma;
            *out = if self.silu { cpu::silu(y) } else { y };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{random, worst};

    #[test]
    fn kernel_agrees_with_candle() -> candle_core::Result<()> {
        for channels in [3, 48] {
            let norm = ChannelNorm { ops: Ops::Kernels, gamma: (random(&[channels])? * 2.0)? };
            let x = (random(&[2, 3, 4, 5, channels])? * 3.0)?;
            for silu in [false, true] {
                let error = worst(&norm.run(&x, silu)?, &norm.plain(&x, silu)?)?;
                assert!(error < 2e-6, "{channels} {silu}");
            }
            let zeros = norm.forward(&x.zeros_like()?)?.flatten_all()?.to_vec1::<f32>()?;
            assert!(zeros.iter().all(|x| *x == 0.0));
        }
        Ok(())
    }
}

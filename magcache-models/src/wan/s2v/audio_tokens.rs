//! The causal audio encoder: what a clip hears, as tokens of its latent frames.

use candle_core::{DType, Result, Tensor};

use crate::{
    checkpoint::{Ops, Weights},
    nn::{Conv1d, Conv1dConfig, Linear, layer_norm_modulate, silu},
    wan::LoadResult,
};

/// Frames under a kernel.
const KERNEL: usize = 3;

const EPS: f64 = 1e-6;

/// What the blocks hear, a row per latent frame.
#[derive(Clone, Debug)]
pub struct AudioTokens {
    /// `[latent frames, tokens + 1, inner]`; the last token is the same in every frame.
    pub local: Tensor,
    /// `[latent frames, inner]`, in models with adaptive norms.
    pub global: Option<Tensor>,
}

impl AudioTokens {
    /// Without the first `frames` latent frames.
    ///
    /// # Errors
    /// Fewer frames than that.
    pub fn after(&self, frames: usize) -> Result<Self> {
        let rest = |x: &Tensor| x.narrow(0, frames, x.dim(0)?.saturating_sub(frames))?.contiguous();
        Ok(Self { local: rest(&self.local)?, global: self.global.as_ref().map(rest).transpose()? })
    }
}

impl AudioTokens {
    /// In the type in which the blocks compute.
    pub(super) fn in_dtype(&self, dtype: DType) -> Result<Self> {
        let global = self.global.as_ref().map(|global| global.to_dtype(dtype)).transpose()?;
        Ok(Self { local: self.local.to_dtype(dtype)?, global })
    }
}

/// `casual_audio_encoder` (`CausalAudioEncoder` of the official code): layers of the speech encoder mixed,
/// then convolutions that see the past alone and keep a quarter of the frames.
#[derive(Debug)]
pub struct CausalAudioEncoder {
    /// Share of each layer, `[1, layers]`.
    shares: Tensor,
    /// All tokens of a frame, side by side.
    local: Conv1d,
    /// One token for the whole frame, and its last layer.
    global: Option<(Conv1d, Linear)>,
    conv2: Conv1d,
    conv3: Conv1d,
    /// `[1, 1, inner]`.
    padding_tokens: Tensor,
    tokens: usize,
    ops: Ops,
}

impl CausalAudioEncoder {
    /// For `tokens` tokens of `inner` channels from features of `channels`; `global` with the token of the
    /// whole frame.
    ///
    /// # Errors
    /// A missing tensor or a wrong shape.
    pub fn load(
        weights: &Weights,
        channels: usize,
        tokens: usize,
        inner: usize,
        global: bool,
    ) -> LoadResult<Self> {
        let [_, layers, _, _] = weights.axes("weights")?;
        let shares = weights.get_f32("weights", &[1, layers, 1, 1])?.reshape((1, layers))?.silu()?;
        let encoder = weights.pp("encoder");
        let conv = |name: &str, inputs: usize, outputs: usize, stride: usize| {
            let config = Conv1dConfig { kernel: KERNEL, stride, padding: (0, 0), groups: 1 };
            Conv1d::load(&encoder.pp(name).pp("conv"), inputs, outputs, config)
        };
        let global = if global {
            let last = Linear::load(&encoder.pp("final_linear"), inner, inner, true)?;
            Some((conv("conv1_global", channels, inner / 4, 1)?, last))
        } else {
            None
        };
        Ok(Self {
            shares: shares.broadcast_div(&shares.sum_all()?)?,
            local: conv("conv1_local", channels, tokens * (inner / 4), 1)?,
            global,
            conv2: conv("conv2", inner / 4, inner / 2, 2)?,
            conv3: conv("conv3", inner / 2, inner, 2)?,
            padding_tokens: encoder.get_f32("padding_tokens", &[1, 1, 1, inner])?.squeeze(0)?,
            tokens,
            ops: weights.ops(),
        })
    }

    /// Features `[1, layers, channels, frames]`, of which every fourth latent frame remains.
    ///
    /// # Errors
    /// Features of another number of layers or channels.
    pub fn forward(&self, features: &Tensor) -> Result<AudioTokens> {
        let (batch, layers, channels, frames) = features.dims4()?;
        if batch != 1 || layers != self.shares.dim(1)? {
            candle_core::bail!(
                "audio features {:?}, expected [1, {}, channels, frames]",
                features.dims(),
                self.shares.dim(1)?
            );
        }
        let by_layer = features.to_dtype(DType::F32)?.reshape((layers, channels * frames))?;
        let mixed = self.shares.matmul(&by_layer)?.reshape((1, channels, frames))?;
        let mixed = mixed.transpose(1, 2)?.contiguous()?;

        // The tokens of a frame go through the later layers as a batch.
        let local = after_repeats(&mixed, &self.local)?.squeeze(0)?;
        let local = local.reshape((frames, self.tokens, ()))?.transpose(0, 1)?.contiguous()?;
        let local = self.later(&local)?.transpose(0, 1)?;
        let (rows, _, inner) = local.dims3()?;
        let padding = self.padding_tokens.expand((rows, 1, inner))?;
        let global = self
            .global
            .as_ref()
            .map(|(first, last)| last.forward(&self.later(&after_repeats(&mixed, first)?)?)?.squeeze(0));
        Ok(AudioTokens {
            local: Tensor::cat(&[local, padding], 1)?.contiguous()?,
            global: global.transpose()?,
        })
    }

    /// What follows the first convolution.
    fn later(&self, x: &Tensor) -> Result<Tensor> {
        let x = after_repeats(&self.activated(x)?, &self.conv2)?;
        let x = after_repeats(&self.activated(&x)?, &self.conv3)?;
        self.activated(&x)
    }

    /// A norm without weights and `SiLU`.
    fn activated(&self, x: &Tensor) -> Result<Tensor> {
        silu(self.ops, &plain_norm(self.ops, x, EPS)?)
    }
}

/// A convolution of `[batch, frames, channels]` that sees two copies of the first frame in front of it.
fn after_repeats(x: &Tensor, conv: &Conv1d) -> Result<Tensor> {
    let first = x.narrow(1, 0, 1)?;
    conv.forward(&Tensor::cat(&[&first, &first, x], 1)?)
}

/// A layer norm without weights.
pub(super) fn plain_norm(ops: Ops, x: &Tensor, eps: f64) -> Result<Tensor> {
    let zeros = Tensor::zeros((1, 1, x.dim(2)?), DType::F32, x.device())?;
    layer_norm_modulate(ops, x, &zeros, &zeros, eps)
}

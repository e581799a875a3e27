//! Blocks that encoder and decoder share. Tensors are `[batch, frames, height, width, channels]`.

use candle_core::Tensor;

use super::cache::{CausalConv, FeatureCache, Slots};
use crate::{
    checkpoint::{CheckpointError, Weights},
    nn::{ChannelNorm, Linear, attention},
};

/// Two causal convolutions around a shortcut.
#[derive(Clone, Debug)]
pub(super) struct ResidualBlock {
    norm1: ChannelNorm,
    conv1: CausalConv,
    norm2: ChannelNorm,
    conv2: CausalConv,
    shortcut: Option<Linear>,
}

impl ResidualBlock {
    pub(super) fn load(
        weights: &Weights,
        inputs: usize,
        outputs: usize,
        slots: &mut Slots,
    ) -> Result<Self, CheckpointError> {
        Ok(Self {
            norm1: ChannelNorm::load(&weights.pp("norm1"), inputs, 3)?,
            conv1: CausalConv::load(&weights.pp("conv1"), inputs, outputs, slots)?,
            norm2: ChannelNorm::load(&weights.pp("norm2"), outputs, 3)?,
            conv2: CausalConv::load(&weights.pp("conv2"), outputs, outputs, slots)?,
            shortcut: (inputs != outputs)
                .then(|| Linear::load_pointwise(&weights.pp("conv_shortcut"), inputs, outputs, 3))
                .transpose()?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor, cache: &mut FeatureCache) -> candle_core::Result<Tensor> {
        let mut h = self.conv1.forward(&self.norm1.forward_silu(x)?, cache)?;
        h = self.norm2.forward_silu(&h)?;
        h = self.conv2.forward(&h, cache)?;
        match &self.shortcut {
            None => h + x,
            Some(shortcut) => h + shortcut.forward(x)?,
        }
    }
}

/// Attention between the pixels of a frame, one head.
#[derive(Clone, Debug)]
pub(super) struct AttentionBlock {
    norm: ChannelNorm,
    to_qkv: Linear,
    proj: Linear,
}

impl AttentionBlock {
    pub(super) fn load(weights: &Weights, channels: usize) -> Result<Self, CheckpointError> {
        Ok(Self {
            norm: ChannelNorm::load(&weights.pp("norm"), channels, 2)?,
            to_qkv: Linear::load_pointwise(&weights.pp("to_qkv"), channels, 3 * channels, 2)?,
            proj: Linear::load_pointwise(&weights.pp("proj"), channels, channels, 2)?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (batch, frames, height, width, channels) = x.dims5()?;
        let tokens = self.norm.forward(x)?.reshape((batch * frames, height * width, channels))?;
        let qkv = self.to_qkv.forward(&tokens)?;
        let part = |i: usize| qkv.narrow(2, i * channels, channels);
        let attended = self.proj.forward(&attention(self.proj.ops(), &part(0)?, &part(1)?, &part(2)?, 1)?)?;
        x + attended.reshape(x.shape())?
    }
}

/// The blocks at the lowest resolution.
#[derive(Clone, Debug)]
pub(super) struct MidBlock {
    before: ResidualBlock,
    attention: AttentionBlock,
    after: ResidualBlock,
}

impl MidBlock {
    pub(super) fn load(
        weights: &Weights,
        channels: usize,
        slots: &mut Slots,
    ) -> Result<Self, CheckpointError> {
        Ok(Self {
            before: ResidualBlock::load(&weights.pp("resnets.0"), channels, channels, slots)?,
            attention: AttentionBlock::load(&weights.pp("attentions.0"), channels)?,
            after: ResidualBlock::load(&weights.pp("resnets.1"), channels, channels, slots)?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor, cache: &mut FeatureCache) -> candle_core::Result<Tensor> {
        let x = self.attention.forward(&self.before.forward(x, cache)?)?;
        self.after.forward(&x, cache)
    }
}

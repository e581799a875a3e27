//! Blocks that encoder and decoder share. Tensors are `[batch, frames, height, width, channels]`.

use candle_core::Tensor;

use super::{
    cache::{CausalConv, FeatureCache, Slots},
    norm::ChannelNorm,
};
use crate::{
    checkpoint::{CheckpointError, Weights},
    nn::{Conv3d, Conv3dConfig, Linear, attention},
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
                .then(|| pointwise(&weights.pp("conv_shortcut"), inputs, outputs, 3))
                .transpose()?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor, cache: &mut FeatureCache) -> candle_core::Result<Tensor> {
        let h = self.conv1.forward(&self.norm1.forward_silu(x)?, cache)?;
        let h = self.conv2.forward(&self.norm2.forward_silu(&h)?, cache)?;
        match &self.shortcut {
            None => h + x,
            Some(shortcut) => h + shortcut.forward(x)?,
        }
    }
}

/// A convolution whose kernel is one pixel, as the linear layer that it is; `axes` is how many axes its kernel has.
pub(super) fn pointwise(
    weights: &Weights,
    inputs: usize,
    outputs: usize,
    axes: usize,
) -> Result<Linear, CheckpointError> {
    let mut shape = vec![outputs, inputs];
    shape.resize(2 + axes, 1);
    let weight = weights.get("weight", &shape)?.reshape((outputs, inputs))?;
    Ok(Linear::new(weight, Some(weights.get_f32("bias", &[outputs])?))?)
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
            to_qkv: pointwise(&weights.pp("to_qkv"), channels, 3 * channels, 2)?,
            proj: pointwise(&weights.pp("proj"), channels, channels, 2)?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (batch, frames, height, width, channels) = x.dims5()?;
        let tokens = self.norm.forward(x)?.reshape((batch * frames, height * width, channels))?;
        let qkv = self.to_qkv.forward(&tokens)?;
        let part = |i: usize| qkv.narrow(2, i * channels, channels);
        let attended = self.proj.forward(&attention(&part(0)?, &part(1)?, &part(2)?, 1)?)?;
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

/// Halves height and width and, with `time`, the frames of every chunk but the first.
#[derive(Clone, Debug)]
pub(super) struct Downsample {
    conv: Conv3d,
    time: Option<CausalConv>,
}

impl Downsample {
    pub(super) fn load(
        weights: &Weights,
        channels: usize,
        time: bool,
        slots: &mut Slots,
    ) -> Result<Self, CheckpointError> {
        let config = Conv3dConfig { kernel: [1, 3, 3], stride: [1, 2, 2], padding: [(0, 0), (0, 1), (0, 1)] };
        let conv = Conv3d::load_2d(&weights.pp("resample.1"), channels, channels, config)?;
        let time = time
            .then(|| CausalConv::load_over_frames(&weights.pp("time_conv"), channels, channels, 2, slots))
            .transpose()?;
        Ok(Self { conv, time })
    }

    pub(super) fn forward(&self, x: &Tensor, cache: &mut FeatureCache) -> candle_core::Result<Tensor> {
        let x = self.conv.forward(x)?;
        match &self.time {
            None => Ok(x),
            Some(time) if cache.first_chunk() => {
                time.skip(&x, cache)?;
                Ok(x)
            }
            Some(time) => time.forward(&x, cache),
        }
    }
}

/// Doubles height and width and, with `time`, the frames of every chunk but the first.
#[derive(Clone, Debug)]
pub(super) struct Upsample {
    conv: Conv3d,
    time: Option<CausalConv>,
}

impl Upsample {
    pub(super) fn load(
        weights: &Weights,
        inputs: usize,
        outputs: usize,
        time: bool,
        slots: &mut Slots,
    ) -> Result<Self, CheckpointError> {
        let config = Conv3dConfig { kernel: [1, 3, 3], stride: [1; 3], padding: [(0, 0), (1, 1), (1, 1)] };
        let conv = Conv3d::load_2d(&weights.pp("resample.1"), inputs, outputs, config)?;
        let time = time
            .then(|| CausalConv::load_over_frames(&weights.pp("time_conv"), inputs, 2 * inputs, 1, slots))
            .transpose()?;
        Ok(Self { conv, time })
    }

    /// The first chunk passes the convolution in time by, and leaves no trace in it: the second chunk sees zeros.
    pub(super) fn forward(&self, x: &Tensor, cache: &mut FeatureCache) -> candle_core::Result<Tensor> {
        match &self.time {
            Some(time) if !cache.first_chunk() => {
                let pairs = time.forward(x, cache)?;
                self.conv.forward(&nearest(&interleaved(&pairs)?)?)
            }
            _ => self.conv.forward(&nearest(x)?),
        }
    }
}

/// `[.., frames, .., 2 * channels]` to `[.., 2 * frames, .., channels]`: the halves become consecutive frames.
fn interleaved(x: &Tensor) -> candle_core::Result<Tensor> {
    let (batch, frames, height, width, channels) = x.dims5()?;
    x.reshape(&[batch, frames, height, width, 2, channels / 2])?
        .permute([0, 1, 4, 2, 3, 5].as_slice())?
        .reshape((batch, 2 * frames, height, width, channels / 2))
}

/// Every pixel four times.
fn nearest(x: &Tensor) -> candle_core::Result<Tensor> {
    let (batch, frames, height, width, channels) = x.dims5()?;
    x.reshape(&[batch * frames, height, 1, width, 1, channels])?
        .broadcast_as(&[batch * frames, height, 2, width, 2, channels])?
        .reshape((batch, frames, 2 * height, 2 * width, channels))
}

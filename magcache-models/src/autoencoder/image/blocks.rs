//! Blocks that encoder and decoder share. Tensors are `[batch, 1, height, width, channels]`.

use candle_core::Tensor;

use crate::{
    checkpoint::{CheckpointError, Weights},
    nn::{Conv3d, Conv3dConfig, GroupNorm, Linear, attention, nearest},
};

/// A convolution of three by three pixels that keeps the size.
pub(super) fn conv(weights: &Weights, inputs: usize, outputs: usize) -> Result<Conv3d, CheckpointError> {
    let config = Conv3dConfig { kernel: [1, 3, 3], stride: [1; 3], padding: [(0, 0), (1, 1), (1, 1)] };
    Conv3d::load_2d(weights, inputs, outputs, config)
}

/// Two convolutions around a shortcut.
#[derive(Debug)]
pub(super) struct ResidualBlock {
    norm1: GroupNorm,
    conv1: Conv3d,
    norm2: GroupNorm,
    conv2: Conv3d,
    shortcut: Option<Linear>,
}

impl ResidualBlock {
    pub(super) fn load(
        weights: &Weights,
        inputs: usize,
        outputs: usize,
        groups: usize,
    ) -> Result<Self, CheckpointError> {
        Ok(Self {
            norm1: GroupNorm::load(&weights.pp("norm1"), inputs, groups)?,
            conv1: conv(&weights.pp("conv1"), inputs, outputs)?,
            norm2: GroupNorm::load(&weights.pp("norm2"), outputs, groups)?,
            conv2: conv(&weights.pp("conv2"), outputs, outputs)?,
            shortcut: (inputs != outputs)
                .then(|| Linear::load_pointwise(&weights.pp("conv_shortcut"), inputs, outputs, 2))
                .transpose()?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let mut h = self.conv1.forward(&self.norm1.forward_silu(x)?)?;
        h = self.norm2.forward_silu(&h)?;
        h = self.conv2.forward(&h)?;
        match &self.shortcut {
            None => h + x,
            Some(shortcut) => h + shortcut.forward(x)?,
        }
    }
}

/// The residual blocks of one resolution, the first of which changes the channels.
pub(super) fn resnets(
    weights: &Weights,
    count: usize,
    inputs: usize,
    outputs: usize,
    groups: usize,
) -> Result<Vec<ResidualBlock>, CheckpointError> {
    (0..count)
        .map(|i| {
            let weights = weights.pp(format_args!("resnets.{i}"));
            ResidualBlock::load(&weights, if i == 0 { inputs } else { outputs }, outputs, groups)
        })
        .collect()
}

/// Attention between the pixels of an image, one head.
#[derive(Debug)]
struct AttentionBlock {
    group_norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
}

impl AttentionBlock {
    fn load(weights: &Weights, channels: usize, groups: usize) -> Result<Self, CheckpointError> {
        let linear = |name: &str| Linear::load(&weights.pp(name), channels, channels, true);
        Ok(Self {
            group_norm: GroupNorm::load(&weights.pp("group_norm"), channels, groups)?,
            to_q: linear("to_q")?,
            to_k: linear("to_k")?,
            to_v: linear("to_v")?,
            to_out: linear("to_out.0")?,
        })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (batch, _, height, width, channels) = x.dims5()?;
        let tokens = self.group_norm.forward(x)?.reshape((batch, height * width, channels))?;
        let (q, k, v) =
            (self.to_q.forward(&tokens)?, self.to_k.forward(&tokens)?, self.to_v.forward(&tokens)?);
        let attended = self.to_out.forward(&attention(self.to_out.ops(), &q, &k, &v, 1)?)?;
        x + attended.reshape(x.shape())?
    }
}

/// The blocks at the lowest resolution.
#[derive(Debug)]
pub(super) struct MidBlock {
    before: ResidualBlock,
    attention: Option<AttentionBlock>,
    after: ResidualBlock,
}

impl MidBlock {
    pub(super) fn load(
        weights: &Weights,
        channels: usize,
        groups: usize,
        attention: bool,
    ) -> Result<Self, CheckpointError> {
        let block = |name: &str| ResidualBlock::load(&weights.pp(name), channels, channels, groups);
        Ok(Self {
            before: block("resnets.0")?,
            attention: attention
                .then(|| AttentionBlock::load(&weights.pp("attentions.0"), channels, groups))
                .transpose()?,
            after: block("resnets.1")?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let mut x = self.before.forward(x)?;
        if let Some(attention) = &self.attention {
            x = attention.forward(&x)?;
        }
        self.after.forward(&x)
    }
}

/// Halves height and width. Pads with zeros one row below and one column to the right, none above or to the
/// left.
#[derive(Debug)]
pub(super) struct Downsample(Conv3d);

impl Downsample {
    pub(super) fn load(weights: &Weights, channels: usize) -> Result<Self, CheckpointError> {
        let config = Conv3dConfig { kernel: [1, 3, 3], stride: [1, 2, 2], padding: [(0, 0), (0, 1), (0, 1)] };
        Ok(Self(Conv3d::load_2d(&weights.pp("conv"), channels, channels, config)?))
    }

    pub(super) fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.0.forward(x)
    }
}

/// Doubles height and width.
#[derive(Debug)]
pub(super) struct Upsample(Conv3d);

impl Upsample {
    pub(super) fn load(weights: &Weights, channels: usize) -> Result<Self, CheckpointError> {
        Ok(Self(conv(&weights.pp("conv"), channels, channels)?))
    }

    pub(super) fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.0.forward(&nearest(x)?)
    }
}

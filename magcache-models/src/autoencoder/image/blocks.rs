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
struct ResidualBlock {
    norm1: GroupNorm,
    conv1: Conv3d,
    norm2: GroupNorm,
    conv2: Conv3d,
    shortcut: Option<Linear>,
}

impl ResidualBlock {
    fn load(
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

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let mut h = self.conv1.forward(&self.norm1.forward_silu(x)?)?;
        h = self.norm2.forward_silu(&h)?;
        h = self.conv2.forward(&h)?;
        match &self.shortcut {
            None => h + x,
            Some(shortcut) => h + shortcut.forward(x)?,
        }
    }
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

/// The residual blocks of one resolution, the first of which changes the channels, and the step to the next.
#[derive(Debug)]
pub(super) struct Level {
    resnets: Vec<ResidualBlock>,
    step: Option<(Step, Conv3d)>,
}

/// How the resolution changes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Halves height and width. Pads with zeros one row below and one column to the right, none above or to
    /// the left.
    Down,
    /// Doubles height and width.
    Up,
}

impl Level {
    /// `blocks` residual blocks.
    pub(super) fn load(
        weights: &Weights,
        blocks: usize,
        [inputs, outputs]: [usize; 2],
        groups: usize,
        step: Option<Step>,
    ) -> Result<Self, CheckpointError> {
        let resnet = |i: usize| {
            let weights = weights.pp(format_args!("resnets.{i}"));
            ResidualBlock::load(&weights, if i == 0 { inputs } else { outputs }, outputs, groups)
        };
        let load_step = |step| {
            let (name, stride, before) = match step {
                Step::Down => ("downsamplers.0.conv", 2, 0),
                Step::Up => ("upsamplers.0.conv", 1, 1),
            };
            let config = Conv3dConfig {
                kernel: [1, 3, 3],
                stride: [1, stride, stride],
                padding: [(0, 0), (before, 1), (before, 1)],
            };
            Conv3d::load_2d(&weights.pp(name), outputs, outputs, config).map(|conv| (step, conv))
        };
        Ok(Self {
            resnets: (0..blocks).map(resnet).collect::<Result<_, _>>()?,
            step: step.map(load_step).transpose()?,
        })
    }

    pub(super) fn forward(&self, mut x: Tensor) -> candle_core::Result<Tensor> {
        for resnet in &self.resnets {
            x = resnet.forward(&x)?;
        }
        match &self.step {
            None => Ok(x),
            Some((Step::Down, conv)) => conv.forward(&x),
            Some((Step::Up, conv)) => {
                x = nearest(&x)?;
                conv.forward(&x)
            }
        }
    }
}

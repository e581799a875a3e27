//! From latents to images. Tensors are `[batch, 1, height, width, channels]`.

use candle_core::Tensor;

use super::{
    ImageVaeConfig,
    blocks::{Level, MidBlock, Step, conv},
};
use crate::{
    checkpoint::{CheckpointError, Weights},
    nn::{Conv3d, GroupNorm},
};

#[derive(Debug)]
pub(super) struct Decoder {
    conv_in: Conv3d,
    mid_block: MidBlock,
    up_blocks: Vec<Level>,
    conv_norm_out: GroupNorm,
    conv_out: Conv3d,
}

impl Decoder {
    pub(super) fn load(weights: &Weights, config: &ImageVaeConfig) -> Result<Self, CheckpointError> {
        let (levels, groups) = (config.decoder_channels(), config.norm_num_groups);
        let lowest = levels.last().copied().unwrap_or_default();
        let mut channels = lowest;
        let mut up_blocks = Vec::with_capacity(levels.len());
        for (i, outputs) in levels.iter().rev().enumerate() {
            let weights = weights.pp(format_args!("up_blocks.{i}"));
            let step = (i + 1 < levels.len()).then_some(Step::Up);
            let (blocks, channels_of_level) = (config.layers_per_block + 1, [channels, *outputs]);
            up_blocks.push(Level::load(&weights, blocks, channels_of_level, groups, step)?);
            channels = *outputs;
        }
        let attention = config.mid_block_add_attention;
        Ok(Self {
            conv_in: conv(&weights.pp("conv_in"), config.latent_channels, lowest)?,
            mid_block: MidBlock::load(&weights.pp("mid_block"), lowest, groups, attention)?,
            up_blocks,
            conv_norm_out: GroupNorm::load(&weights.pp("conv_norm_out"), channels, groups)?,
            conv_out: conv(&weights.pp("conv_out"), channels, config.out_channels)?,
        })
    }

    /// Not clamped.
    pub(super) fn forward(&self, z: Tensor) -> candle_core::Result<Tensor> {
        let mut x = self.conv_in.forward(&z)?;
        drop(z);
        x = self.mid_block.forward(&x)?;
        for block in &self.up_blocks {
            x = block.forward(x)?;
        }
        x = self.conv_norm_out.forward_silu(&x)?;
        self.conv_out.forward(&x)
    }
}

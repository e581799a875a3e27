//! From images to the moments of the latents. Tensors are `[batch, 1, height, width, channels]`.

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
pub(super) struct Encoder {
    conv_in: Conv3d,
    down_blocks: Vec<Level>,
    mid_block: MidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv3d,
}

impl Encoder {
    pub(super) fn load(weights: &Weights, config: &ImageVaeConfig) -> Result<Self, CheckpointError> {
        let (levels, groups) = (&config.block_out_channels, config.norm_num_groups);
        let highest = levels.first().copied().unwrap_or_default();
        let mut channels = highest;
        let mut down_blocks = Vec::with_capacity(levels.len());
        for (i, outputs) in levels.iter().enumerate() {
            let weights = weights.pp(format_args!("down_blocks.{i}"));
            let step = (i + 1 < levels.len()).then_some(Step::Down);
            let channels_of_level = [channels, *outputs];
            down_blocks.push(Level::load(
                &weights,
                config.layers_per_block,
                channels_of_level,
                groups,
                step,
            )?);
            channels = *outputs;
        }
        let attention = config.mid_block_add_attention;
        Ok(Self {
            conv_in: conv(&weights.pp("conv_in"), config.in_channels, highest)?,
            down_blocks,
            mid_block: MidBlock::load(&weights.pp("mid_block"), channels, groups, attention)?,
            conv_norm_out: GroupNorm::load(&weights.pp("conv_norm_out"), channels, groups)?,
            conv_out: conv(&weights.pp("conv_out"), channels, 2 * config.latent_channels)?,
        })
    }

    pub(super) fn forward(&self, images: Tensor) -> candle_core::Result<Tensor> {
        let mut x = self.conv_in.forward(&images)?;
        drop(images);
        for block in &self.down_blocks {
            x = block.forward(x)?;
        }
        x = self.mid_block.forward(&x)?;
        x = self.conv_norm_out.forward_silu(&x)?;
        self.conv_out.forward(&x)
    }
}

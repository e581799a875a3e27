//! From frames to the moments of the latents, chunk by chunk.

use candle_core::Tensor;

use super::{
    WanVaeConfig,
    blocks::{Downsample, MidBlock, ResidualBlock},
    cache::{CausalConv, FeatureCache, Slots},
    decoder::Trace,
    norm::ChannelNorm,
};
use crate::checkpoint::{CheckpointError, Weights};

#[derive(Debug)]
pub(super) struct Encoder {
    conv_in: CausalConv,
    /// In the order of the checkpoint, which numbers blocks and steps through.
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    norm_out: ChannelNorm,
    conv_out: CausalConv,
    slots: Slots,
}

#[derive(Debug)]
enum DownBlock {
    Residual(ResidualBlock),
    Downsample(Downsample),
}

impl Encoder {
    pub(super) fn load(weights: &Weights, config: &WanVaeConfig) -> Result<Self, CheckpointError> {
        let mut slots = Slots::default();
        let conv_in =
            CausalConv::load(&weights.pp("conv_in"), config.in_channels, config.base_dim, &mut slots)?;
        let mut down_blocks = Vec::new();
        let mut channels = config.base_dim;
        for (level, multiple) in config.dim_mult.iter().enumerate() {
            for _ in 0..config.num_res_blocks {
                let weights = weights.pp(format_args!("down_blocks.{}", down_blocks.len()));
                let block = ResidualBlock::load(&weights, channels, config.base_dim * multiple, &mut slots)?;
                down_blocks.push(DownBlock::Residual(block));
                channels = config.base_dim * multiple;
            }
            if let Some(time) = config.temperal_downsample.get(level) {
                let weights = weights.pp(format_args!("down_blocks.{}", down_blocks.len()));
                down_blocks
                    .push(DownBlock::Downsample(Downsample::load(&weights, channels, *time, &mut slots)?));
            }
        }
        Ok(Self {
            conv_in,
            down_blocks,
            mid_block: MidBlock::load(&weights.pp("mid_block"), channels, &mut slots)?,
            norm_out: ChannelNorm::load(&weights.pp("norm_out"), channels, 3)?,
            conv_out: CausalConv::load(&weights.pp("conv_out"), channels, 2 * config.z_dim, &mut slots)?,
            slots,
        })
    }

    pub(super) fn cache(&self) -> FeatureCache {
        FeatureCache::new(&self.slots)
    }

    /// One chunk of frames `[batch, frames, height, width, in_channels]` to `[.., 2 * z_dim]`.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        cache: &mut FeatureCache,
        trace: Trace<'_>,
    ) -> candle_core::Result<Tensor> {
        let mut x = self.conv_in.forward(x, cache)?;
        trace("conv_in", &x)?;
        for (i, block) in self.down_blocks.iter().enumerate() {
            x = match block {
                DownBlock::Residual(block) => block.forward(&x, cache)?,
                DownBlock::Downsample(block) => block.forward(&x, cache)?,
            };
            trace(&format!("down_blocks.{i}"), &x)?;
        }
        x = self.mid_block.forward(&x, cache)?;
        trace("mid_block", &x)?;
        x = self.conv_out.forward(&self.norm_out.forward_silu(&x)?, cache)?;
        trace("conv_out", &x)?;
        cache.end_chunk();
        Ok(x)
    }
}

//! What encoder and decoder consist of: causal layers that work on a stream chunk by chunk. Tensors are
//! `[batch, frames, height, width, channels]`.

use candle_core::{Result, Tensor};

use super::{
    blocks::{MidBlock, ResidualBlock},
    cache::{CausalConv, FeatureCache, Slots},
    observe::Trace,
    resample::{Downsample, Upsample},
};
use crate::nn::{AvgDown, ChannelNorm, DupUp};

/// An encoder, which has blocks before the middle, or a decoder, which has them after it.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) conv_in: CausalConv,
    /// Numbered as in the checkpoint.
    pub(super) down_blocks: Vec<Block>,
    pub(super) mid_block: MidBlock,
    pub(super) up_blocks: Vec<Block>,
    pub(super) norm_out: ChannelNorm,
    pub(super) conv_out: CausalConv,
    pub(super) slots: Slots,
}

/// Stages one after the other, with a shortcut around those of a resolution in Wan 2.2.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) stages: Vec<Stage>,
    pub(super) shortcut: Option<Shortcut>,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a network has a few dozen of them")]
pub(super) enum Stage {
    Residual(ResidualBlock),
    Downsample(Downsample),
    Upsample(Upsample),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Shortcut {
    Down(AvgDown),
    Up(DupUp),
}

impl Network {
    pub(super) fn cache(&self) -> FeatureCache {
        FeatureCache::new(&self.slots)
    }

    /// A chunk of a stream: one frame or [`CHUNK`](super::CHUNK) of them to moments, one latent frame to its
    /// frames, not clamped.
    pub(super) fn forward(
        &self,
        chunk: Tensor,
        cache: &mut FeatureCache,
        trace: &mut Trace<'_, '_>,
    ) -> Result<Tensor> {
        let mut x = self.conv_in.forward(&chunk, cache)?;
        drop(chunk);
        trace.show(format_args!("conv_in"), &x)?;
        for (i, block) in self.down_blocks.iter().enumerate() {
            x = block.forward(x, cache)?;
            trace.show(format_args!("down_blocks.{i}"), &x)?;
        }
        x = self.mid_block.forward(&x, cache)?;
        trace.show(format_args!("mid_block"), &x)?;
        for (i, block) in self.up_blocks.iter().enumerate() {
            x = block.forward(x, cache)?;
            trace.show(format_args!("up_blocks.{i}"), &x)?;
        }
        x = self.norm_out.forward_silu(&x)?;
        x = self.conv_out.forward(&x, cache)?;
        trace.show(format_args!("conv_out"), &x)?;
        cache.end_chunk();
        Ok(x)
    }
}

impl Block {
    fn forward(&self, input: Tensor, cache: &mut FeatureCache) -> Result<Tensor> {
        let around = self.shortcut.map(|shortcut| (shortcut, input.clone()));
        let mut x = input;
        for stage in &self.stages {
            x = match stage {
                Stage::Residual(block) => block.forward(&x, cache)?,
                Stage::Downsample(step) => step.forward(&x, cache)?,
                Stage::Upsample(step) => step.forward(&x, cache)?,
            };
        }
        match around {
            Some((Shortcut::Down(shortcut), input)) => shortcut.add_to(x, &input),
            Some((Shortcut::Up(shortcut), input)) => shortcut.add_to(x, &input, cache.first_chunk()),
            None => Ok(x),
        }
    }
}

//! From frames to the moments of the latents, chunk by chunk.

use candle_core::Tensor;

use super::{
    VideoVaeConfig,
    blocks::{MidBlock, ResidualBlock},
    cache::{CausalConv, FeatureCache, Slots},
    levels::DownLevel,
    observe::Trace,
    resample::Downsample,
};
use crate::{
    checkpoint::{CheckpointError, Weights},
    nn::{AvgDown, ChannelNorm},
};

#[derive(Debug)]
pub(super) struct Encoder {
    conv_in: CausalConv,
    /// Numbered as in the checkpoint.
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    norm_out: ChannelNorm,
    conv_out: CausalConv,
    slots: Slots,
}

/// In Wan 2.1 a single stage, in Wan 2.2 the stages of one resolution with a shortcut around them.
#[derive(Debug)]
struct DownBlock {
    stages: Vec<Stage>,
    shortcut: Option<AvgDown>,
}

#[derive(Debug)]
enum Stage {
    Residual(ResidualBlock),
    Downsample(Downsample),
}

impl Encoder {
    pub(super) fn load(weights: &Weights, config: &VideoVaeConfig) -> Result<Self, CheckpointError> {
        let mut slots = Slots::default();
        let conv_in =
            CausalConv::load(&weights.pp("conv_in"), config.in_channels, config.base_dim, &mut slots)?;
        let mut down_blocks = Vec::new();
        let levels = config.down_levels();
        for level in &levels {
            let first = down_blocks.len();
            let stages = (0..config.num_res_blocks + usize::from(level.step.is_some()))
                .map(|i| {
                    let name = match level.step {
                        _ if !config.is_residual => format!("down_blocks.{}", first + i),
                        Some(_) if i == config.num_res_blocks => format!("down_blocks.{first}.downsampler"),
                        _ => format!("down_blocks.{first}.resnets.{i}"),
                    };
                    Stage::load(&weights.pp(name), level, i, config.num_res_blocks, &mut slots)
                })
                .collect::<Result<Vec<_>, _>>()?;
            match level.shortcut {
                Some(fold) => {
                    down_blocks.push(DownBlock { stages, shortcut: Some(AvgDown(fold, weights.ops())) });
                }
                None => down_blocks.extend(stages.into_iter().map(DownBlock::alone)),
            }
        }
        let lowest = levels.last().map_or(config.base_dim, |level| level.outputs);
        Ok(Self {
            conv_in,
            down_blocks,
            mid_block: MidBlock::load(&weights.pp("mid_block"), lowest, &mut slots)?,
            norm_out: ChannelNorm::load(&weights.pp("norm_out"), lowest, 3)?,
            conv_out: CausalConv::load(&weights.pp("conv_out"), lowest, 2 * config.z_dim, &mut slots)?,
            slots,
        })
    }

    pub(super) fn cache(&self) -> FeatureCache {
        FeatureCache::new(&self.slots)
    }

    /// One chunk of frames `[batch, frames, height, width, in_channels]` to `[.., 2 * z_dim]`.
    pub(super) fn forward(
        &self,
        frames: Tensor,
        cache: &mut FeatureCache,
        trace: &mut Trace<'_, '_>,
    ) -> candle_core::Result<Tensor> {
        let mut x = self.conv_in.forward(&frames, cache)?;
        drop(frames);
        trace.show(format_args!("conv_in"), &x)?;
        for (i, block) in self.down_blocks.iter().enumerate() {
            x = block.forward(x, cache)?;
            trace.show(format_args!("down_blocks.{i}"), &x)?;
        }
        x = self.mid_block.forward(&x, cache)?;
        trace.show(format_args!("mid_block"), &x)?;
        x = self.norm_out.forward_silu(&x)?;
        x = self.conv_out.forward(&x, cache)?;
        trace.show(format_args!("conv_out"), &x)?;
        cache.end_chunk();
        Ok(x)
    }
}

impl DownBlock {
    fn alone(stage: Stage) -> Self {
        Self { stages: vec![stage], shortcut: None }
    }

    fn forward(&self, input: Tensor, cache: &mut FeatureCache) -> candle_core::Result<Tensor> {
        let around = self.shortcut.map(|shortcut| (shortcut, input.clone()));
        let mut x = input;
        for stage in &self.stages {
            x = match stage {
                Stage::Residual(block) => block.forward(&x, cache)?,
                Stage::Downsample(step) => step.forward(&x, cache)?,
            };
        }
        match around {
            Some((shortcut, input)) => shortcut.add_to(x, &input),
            None => Ok(x),
        }
    }
}

impl Stage {
    /// Stage `i` of a level: the residual blocks come first, then the step.
    fn load(
        weights: &Weights,
        level: &DownLevel,
        i: usize,
        blocks: usize,
        slots: &mut Slots,
    ) -> Result<Self, CheckpointError> {
        match level.step {
            Some(time) if i == blocks => {
                Ok(Self::Downsample(Downsample::load(weights, level.outputs, time, slots)?))
            }
            _ => {
                let inputs = if i == 0 { level.inputs } else { level.outputs };
                Ok(Self::Residual(ResidualBlock::load(weights, inputs, level.outputs, slots)?))
            }
        }
    }
}

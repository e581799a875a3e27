//! From frames to the moments of the latents, chunk by chunk.

use super::{
    VideoVaeConfig,
    blocks::{MidBlock, ResidualBlock},
    cache::{CausalConv, Slots},
    levels::DownLevel,
    network::{Block, Network, Shortcut, Stage},
    resample::Downsample,
};
use crate::{
    checkpoint::{CheckpointError, Weights},
    nn::{AvgDown, ChannelNorm},
};

impl Network {
    /// Frames `[.., in_channels]` to `[.., 2 * z_dim]`.
    pub(super) fn encoder(weights: &Weights, config: &VideoVaeConfig) -> Result<Self, CheckpointError> {
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
                    stage(&weights.pp(name), level, i, config.num_res_blocks, &mut slots)
                })
                .collect::<Result<Vec<_>, _>>()?;
            match level.shortcut {
                Some(fold) => {
                    let shortcut = Some(Shortcut::Down(AvgDown(fold, weights.ops())));
                    down_blocks.push(Block { stages, shortcut });
                }
                // In Wan 2.1 every stage is a block of the list.
                None => down_blocks
                    .extend(stages.into_iter().map(|stage| Block { stages: vec![stage], shortcut: None })),
            }
        }
        let lowest = levels.last().map_or(config.base_dim, |level| level.outputs);
        Ok(Self {
            conv_in,
            down_blocks,
            mid_block: MidBlock::load(&weights.pp("mid_block"), lowest, &mut slots)?,
            up_blocks: Vec::new(),
            norm_out: ChannelNorm::load(&weights.pp("norm_out"), lowest, 3)?,
            conv_out: CausalConv::load(&weights.pp("conv_out"), lowest, 2 * config.z_dim, &mut slots)?,
            slots,
        })
    }
}

/// Stage `i` of a level: the residual blocks come first, then the step.
fn stage(
    weights: &Weights,
    level: &DownLevel,
    i: usize,
    blocks: usize,
    slots: &mut Slots,
) -> Result<Stage, CheckpointError> {
    match level.step {
        Some(time) if i == blocks => {
            Downsample::load(weights, level.outputs, time, slots).map(Stage::Downsample)
        }
        _ => {
            let inputs = if i == 0 { level.inputs } else { level.outputs };
            ResidualBlock::load(weights, inputs, level.outputs, slots).map(Stage::Residual)
        }
    }
}

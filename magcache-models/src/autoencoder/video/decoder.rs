//! From latents to frames, one latent frame at a time.

use super::{
    VideoVaeConfig,
    blocks::{MidBlock, ResidualBlock},
    cache::{CausalConv, Slots},
    levels::UpLevel,
    network::{Block, Network, Shortcut, Stage},
    resample::Upsample,
};
use crate::{
    checkpoint::{CheckpointError, Weights},
    nn::{ChannelNorm, DupUp},
};

impl Network {
    /// Latents `[.., z_dim]` to frames `[.., out_channels]`.
    pub(super) fn decoder(weights: &Weights, config: &VideoVaeConfig) -> Result<Self, CheckpointError> {
        let mut slots = Slots::default();
        let levels = config.up_levels();
        let lowest = levels.first().map_or(config.decoder_dim(), |level| level.inputs);
        let highest = levels.last().map_or(lowest, |level| level.outputs);
        Ok(Self {
            conv_in: CausalConv::load(&weights.pp("conv_in"), config.z_dim, lowest, &mut slots)?,
            down_blocks: Vec::new(),
            mid_block: MidBlock::load(&weights.pp("mid_block"), lowest, &mut slots)?,
            up_blocks: levels
                .iter()
                .enumerate()
                .map(|(i, level)| {
                    block(&weights.pp(format_args!("up_blocks.{i}")), level, config, &mut slots)
                })
                .collect::<Result<_, _>>()?,
            norm_out: ChannelNorm::load(&weights.pp("norm_out"), highest, 3)?,
            conv_out: CausalConv::load(&weights.pp("conv_out"), highest, config.out_channels, &mut slots)?,
            slots,
        })
    }
}

/// The residual blocks of one resolution and the step to the next.
fn block(
    weights: &Weights,
    level: &UpLevel,
    config: &VideoVaeConfig,
    slots: &mut Slots,
) -> Result<Block, CheckpointError> {
    let mut stages = Vec::new();
    for i in 0..=config.num_res_blocks {
        let inputs = if i == 0 { level.inputs } else { level.outputs };
        let weights = weights.pp(format_args!("resnets.{i}"));
        stages.push(Stage::Residual(ResidualBlock::load(&weights, inputs, level.outputs, slots)?));
    }
    if let Some(step) = level.step {
        let weights = weights.pp(if config.is_residual { "upsampler" } else { "upsamplers.0" });
        stages.push(Stage::Upsample(Upsample::load(
            &weights,
            level.outputs,
            step.outputs,
            step.time,
            slots,
        )?));
    }
    Ok(Block { stages, shortcut: level.shortcut.map(|fold| Shortcut::Up(DupUp(fold, weights.ops()))) })
}

//! From latents to frames, one latent frame at a time.

use candle_core::Tensor;

use super::{
    VideoVaeConfig,
    blocks::{MidBlock, ResidualBlock},
    cache::{CausalConv, FeatureCache, Slots},
    levels::UpLevel,
    observe::Trace,
    resample::Upsample,
};
use crate::{
    checkpoint::{CheckpointError, Weights},
    nn::{ChannelNorm, DupUp},
};

#[derive(Debug)]
pub(super) struct Decoder {
    conv_in: CausalConv,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    norm_out: ChannelNorm,
    conv_out: CausalConv,
    slots: Slots,
}

/// The residual blocks of one resolution and the step to the next, with a shortcut in Wan 2.2.
#[derive(Debug)]
struct UpBlock {
    resnets: Vec<ResidualBlock>,
    upsampler: Option<Upsample>,
    shortcut: Option<DupUp>,
}

impl Decoder {
    pub(super) fn load(weights: &Weights, config: &VideoVaeConfig) -> Result<Self, CheckpointError> {
        let mut slots = Slots::default();
        let levels = config.up_levels();
        let lowest = levels.first().map_or(config.decoder_dim(), |level| level.inputs);
        let highest = levels.last().map_or(lowest, |level| level.outputs);
        Ok(Self {
            conv_in: CausalConv::load(&weights.pp("conv_in"), config.z_dim, lowest, &mut slots)?,
            mid_block: MidBlock::load(&weights.pp("mid_block"), lowest, &mut slots)?,
            up_blocks: levels
                .iter()
                .enumerate()
                .map(|(i, level)| {
                    let weights = weights.pp(format_args!("up_blocks.{i}"));
                    UpBlock::load(&weights, level, config, &mut slots)
                })
                .collect::<Result<_, _>>()?,
            norm_out: ChannelNorm::load(&weights.pp("norm_out"), highest, 3)?,
            conv_out: CausalConv::load(&weights.pp("conv_out"), highest, config.out_channels, &mut slots)?,
            slots,
        })
    }

    pub(super) fn cache(&self) -> FeatureCache {
        FeatureCache::new(&self.slots)
    }

    /// One latent frame `[batch, 1, height, width, z_dim]` to its frames, not clamped.
    pub(super) fn forward(
        &self,
        z: &Tensor,
        cache: &mut FeatureCache,
        trace: &mut Trace<'_, '_>,
    ) -> candle_core::Result<Tensor> {
        let mut x = self.conv_in.forward(z, cache)?;
        trace.show(format_args!("conv_in"), &x)?;
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

impl UpBlock {
    fn load(
        weights: &Weights,
        level: &UpLevel,
        config: &VideoVaeConfig,
        slots: &mut Slots,
    ) -> Result<Self, CheckpointError> {
        let resnets = (0..=config.num_res_blocks)
            .map(|i| {
                let inputs = if i == 0 { level.inputs } else { level.outputs };
                ResidualBlock::load(&weights.pp(format_args!("resnets.{i}")), inputs, level.outputs, slots)
            })
            .collect::<Result<_, _>>()?;
        let name = if config.is_residual { "upsampler" } else { "upsamplers.0" };
        let upsampler = level
            .step
            .map(|step| Upsample::load(&weights.pp(name), level.outputs, step.outputs, step.time, slots))
            .transpose()?;
        Ok(Self { resnets, upsampler, shortcut: level.shortcut.map(|fold| DupUp(fold, weights.ops())) })
    }

    fn forward(&self, input: Tensor, cache: &mut FeatureCache) -> candle_core::Result<Tensor> {
        let around = self.shortcut.map(|shortcut| (shortcut, input.clone()));
        let mut x = input;
        for block in &self.resnets {
            x = block.forward(&x, cache)?;
        }
        if let Some(upsampler) = &self.upsampler {
            x = upsampler.forward(&x, cache)?;
        }
        match around {
            Some((shortcut, input)) => shortcut.add_to(x, &input, cache.first_chunk()),
            None => Ok(x),
        }
    }
}

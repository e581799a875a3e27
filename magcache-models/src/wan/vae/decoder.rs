//! From latents to frames, one latent frame at a time.

use candle_core::Tensor;

use super::{
    WanVaeConfig,
    blocks::{MidBlock, ResidualBlock, Upsample},
    cache::{CausalConv, FeatureCache, Slots},
    norm::ChannelNorm,
};
use crate::checkpoint::{CheckpointError, Weights};

/// Called with the name of a module and its output.
pub(super) type Trace<'a> = &'a mut dyn FnMut(&str, &Tensor) -> candle_core::Result<()>;

#[derive(Debug)]
pub(super) struct Decoder {
    conv_in: CausalConv,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    norm_out: ChannelNorm,
    conv_out: CausalConv,
    slots: Slots,
}

/// The residual blocks of one resolution and the step to the next.
#[derive(Debug)]
struct UpBlock {
    resnets: Vec<ResidualBlock>,
    upsampler: Option<Upsample>,
}

impl Decoder {
    pub(super) fn load(weights: &Weights, config: &WanVaeConfig) -> Result<Self, CheckpointError> {
        let mut slots = Slots::default();
        let base = config.decoder_dim();
        let dims: Vec<usize> = config.dim_mult.iter().rev().map(|m| base * m).collect();
        let lowest = dims.first().copied().unwrap_or(base);

        let conv_in = CausalConv::load(&weights.pp("conv_in"), config.z_dim, lowest, &mut slots)?;
        let mid_block = MidBlock::load(&weights.pp("mid_block"), lowest, &mut slots)?;
        let mut up_blocks = Vec::with_capacity(dims.len());
        let mut inputs = lowest;
        for (i, dim) in dims.into_iter().enumerate() {
            let weights = weights.pp(format_args!("up_blocks.{i}"));
            // The steps up run against the order in which the configuration lists those down; the last has none.
            let time = config.temperal_downsample.iter().rev().nth(i).copied();
            up_blocks.push(UpBlock::load(&weights, inputs, dim, config.num_res_blocks, time, &mut slots)?);
            inputs = if time.is_some() { dim / 2 } else { dim };
        }
        Ok(Self {
            conv_in,
            mid_block,
            up_blocks,
            norm_out: ChannelNorm::load(&weights.pp("norm_out"), inputs, 3)?,
            conv_out: CausalConv::load(&weights.pp("conv_out"), inputs, config.out_channels, &mut slots)?,
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
        trace: Trace<'_>,
    ) -> candle_core::Result<Tensor> {
        let mut x = self.conv_in.forward(z, cache)?;
        trace("conv_in", &x)?;
        x = self.mid_block.forward(&x, cache)?;
        trace("mid_block", &x)?;
        for (i, block) in self.up_blocks.iter().enumerate() {
            x = block.forward(&x, cache)?;
            trace(&format!("up_blocks.{i}"), &x)?;
        }
        x = self.conv_out.forward(&self.norm_out.forward_silu(&x)?, cache)?;
        trace("conv_out", &x)?;
        cache.end_chunk();
        Ok(x)
    }
}

impl UpBlock {
    fn load(
        weights: &Weights,
        inputs: usize,
        dim: usize,
        blocks: usize,
        time: Option<bool>,
        slots: &mut Slots,
    ) -> Result<Self, CheckpointError> {
        let resnets = (0..=blocks)
            .map(|i| {
                let inputs = if i == 0 { inputs } else { dim };
                ResidualBlock::load(&weights.pp(format_args!("resnets.{i}")), inputs, dim, slots)
            })
            .collect::<Result<_, _>>()?;
        let upsampler = time
            .map(|time| Upsample::load(&weights.pp("upsamplers.0"), dim, dim / 2, time, slots))
            .transpose()?;
        Ok(Self { resnets, upsampler })
    }

    fn forward(&self, x: &Tensor, cache: &mut FeatureCache) -> candle_core::Result<Tensor> {
        let mut x = x.clone();
        for block in &self.resnets {
            x = block.forward(&x, cache)?;
        }
        match &self.upsampler {
            Some(upsampler) => upsampler.forward(&x, cache),
            None => Ok(x),
        }
    }
}

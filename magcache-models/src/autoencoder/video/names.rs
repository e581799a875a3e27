//! The video autoencoders, `Wan2.1_VAE.pth` and `Wan2.2_VAE.pth`: native, diffusers' `AutoencoderKLWan`.
//!
//! Source: `wan/modules/vae.py` of Wan2.1, `wan/modules/vae2_2.py` of Wan2.2, and the conversion that the
//! diffusers project published for the first. Names have two parts, the position of a block and the module
//! inside it; each has a table.

use crate::checkpoint::{
    Mapped,
    table::{Rule, look_up, rename},
};

/// The autoencoder whose names are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VaeNames {
    /// Wan 2.1: the modules of all resolutions in one list.
    Wan21 {
        /// Residual blocks of the decoder at every resolution, after which the list continues with the next
        /// one.
        decoder_blocks: usize,
    },
    /// Wan 2.2: one module per resolution.
    Wan22,
}

/// Modules that are not blocks.
const ENDS: [Rule; 8] = [
    rename("conv1", "quant_conv"),
    rename("conv2", "post_quant_conv"),
    rename("encoder.conv1", "encoder.conv_in"),
    rename("encoder.head.0", "encoder.norm_out"),
    rename("encoder.head.2", "encoder.conv_out"),
    rename("decoder.conv1", "decoder.conv_in"),
    rename("decoder.head.0", "decoder.norm_out"),
    rename("decoder.head.2", "decoder.conv_out"),
];

/// Positions of the blocks between encoder and latents, and between latents and decoder.
const MIDDLE: [Rule; 6] = [
    rename("encoder.middle.0", "encoder.mid_block.resnets.0"),
    rename("encoder.middle.1", "encoder.mid_block.attentions.0"),
    rename("encoder.middle.2", "encoder.mid_block.resnets.1"),
    rename("decoder.middle.0", "decoder.mid_block.resnets.0"),
    rename("decoder.middle.1", "decoder.mid_block.attentions.0"),
    rename("decoder.middle.2", "decoder.mid_block.resnets.1"),
];

/// Inside a residual or attention block.
const BLOCK: [Rule; 8] = [
    rename("residual.0", "norm1"),
    rename("residual.2", "conv1"),
    rename("residual.3", "norm2"),
    rename("residual.6", "conv2"),
    rename("shortcut", "conv_shortcut"),
    rename("norm", "norm"),
    rename("to_qkv", "to_qkv"),
    rename("proj", "proj"),
];

/// Inside a step to the next resolution.
const RESAMPLE: [Rule; 2] = [rename("resample.1", "resample.1"), rename("time_conv", "time_conv")];

/// Positions at the resolutions of Wan 2.1's encoder, for blocks and steps alike.
const DOWN_21: [Rule; 1] = [rename("encoder.downsamples.*", "encoder.down_blocks.*")];

/// Positions of the blocks at the resolutions of Wan 2.2.
const BLOCKS_22: [Rule; 2] = [
    rename("encoder.downsamples.*.downsamples.*", "encoder.down_blocks.*.resnets.*"),
    rename("decoder.upsamples.*.upsamples.*", "decoder.up_blocks.*.resnets.*"),
];

/// Positions of the steps between the resolutions of Wan 2.2; the second number is redundant.
const STEPS_22: [Rule; 2] = [
    rename("encoder.downsamples.*.downsamples.*", "encoder.down_blocks.*.downsampler"),
    rename("decoder.upsamples.*.upsamples.*", "decoder.up_blocks.*.upsampler"),
];

/// The mapping of a native autoencoder tensor; `None` for one that our model does not have.
pub fn vae(names: VaeNames, native: &str) -> Option<Mapped> {
    if let Some(mapped) = look_up(&ENDS, native) {
        return Some(mapped);
    }
    // The inner part consists of the last one or two modules and the parameter.
    native.match_indices('.').find_map(|(dot, _)| {
        let (place, inner) = (native.get(..dot)?, native.get(dot + 1..)?);
        let block = same(&BLOCK, inner);
        let step = same(&RESAMPLE, inner);
        let place = match (&block, names) {
            (Some(_), _) if place.contains(".middle.") => same(&MIDDLE, place),
            (_, VaeNames::Wan21 { .. }) if place.starts_with("encoder.") => same(&DOWN_21, place),
            (_, VaeNames::Wan21 { decoder_blocks }) => up_21(place, decoder_blocks, step.is_some()),
            (Some(_), VaeNames::Wan22) => same(&BLOCKS_22, place),
            (None, VaeNames::Wan22) => same(&STEPS_22, place),
        }?;
        Some(Mapped::Same(format!("{place}.{}", block.or(step)?)))
    })
}

/// The name in a table of other names alone.
fn same(table: &[Rule], name: &str) -> Option<String> {
    match look_up(table, name)? {
        Mapped::Same(name) => Some(name),
        _ => None,
    }
}

/// The position of a module in the decoder of Wan 2.1: each resolution has some blocks and, except the last,
/// a step.
fn up_21(place: &str, blocks: usize, is_step: bool) -> Option<String> {
    let index: usize = place.strip_prefix("decoder.upsamples.")?.parse().ok()?;
    let (level, i) = (index / (blocks + 1), index % (blocks + 1));
    match (is_step, i == blocks) {
        (false, false) => Some(format!("decoder.up_blocks.{level}.resnets.{i}")),
        (true, true) => Some(format!("decoder.up_blocks.{level}.upsamplers.0")),
        _ => None,
    }
}

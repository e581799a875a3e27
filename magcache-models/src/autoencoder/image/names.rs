//! Tensor names of the native files (`ae.safetensors`), mapped to those of diffusers.
//!
//! Source: `modules/autoencoder.py` of the FLUX.1 release and `convert_ldm_vae_checkpoint` of diffusers
//! 0.42.1; for FLUX.2 the converter in the scripts of diffusers. Both number the resolutions of the decoder
//! from the highest, diffusers from the lowest, and both store the attention's matrices as kernels of one
//! pixel. In FLUX.2 the quantisation convolutions are inside the encoder and decoder.

use crate::checkpoint::{
    CheckpointError, Mapped, Weights,
    table::{Operation, Rule, look_up, rename},
};

/// Prefixes of the autoencoder in files that contain more.
const PREFIXES: [&str; 2] = ["first_stage_model.", "vae."];

/// A module that every native file has, with a name that diffusers does not use.
const MARKER: &str = "decoder.mid.block_1.norm1.weight";

/// The list of the decoder's resolutions.
const UP: &str = "decoder.up.";

/// Modules whose place does not depend on the number of resolutions.
const TABLE: [Rule; 10] = [
    rename("encoder.norm_out", "encoder.conv_norm_out"),
    rename("decoder.norm_out", "decoder.conv_norm_out"),
    rename("encoder.quant_conv", "quant_conv"),
    rename("decoder.post_quant_conv", "post_quant_conv"),
    rename("encoder.down.*.block.*.nin_shortcut", "encoder.down_blocks.*.resnets.*.conv_shortcut"),
    rename("encoder.down.*.block.*.norm1", "encoder.down_blocks.*.resnets.*.norm1"),
    rename("encoder.down.*.block.*.conv1", "encoder.down_blocks.*.resnets.*.conv1"),
    rename("encoder.down.*.block.*.norm2", "encoder.down_blocks.*.resnets.*.norm2"),
    rename("encoder.down.*.block.*.conv2", "encoder.down_blocks.*.resnets.*.conv2"),
    rename("encoder.down.*.downsample.conv", "encoder.down_blocks.*.downsamplers.0.conv"),
];

/// Modules of the decoder's resolutions, after their number.
const LEVEL: [Rule; 6] = [
    rename("block.*.nin_shortcut", "resnets.*.conv_shortcut"),
    rename("block.*.norm1", "resnets.*.norm1"),
    rename("block.*.conv1", "resnets.*.conv1"),
    rename("block.*.norm2", "resnets.*.norm2"),
    rename("block.*.conv2", "resnets.*.conv2"),
    rename("upsample.conv", "upsamplers.0.conv"),
];

/// Modules of the lowest resolution, after `encoder.mid.` and `decoder.mid.`.
const MIDDLE: [Rule; 13] = [
    rename("block_1.norm1", "resnets.0.norm1"),
    rename("block_1.conv1", "resnets.0.conv1"),
    rename("block_1.norm2", "resnets.0.norm2"),
    rename("block_1.conv2", "resnets.0.conv2"),
    rename("attn_1.norm", "attentions.0.group_norm"),
    matrix("attn_1.q", "attentions.0.to_q"),
    matrix("attn_1.k", "attentions.0.to_k"),
    matrix("attn_1.v", "attentions.0.to_v"),
    matrix("attn_1.proj_out", "attentions.0.to_out.0"),
    rename("block_2.norm1", "resnets.1.norm1"),
    rename("block_2.conv1", "resnets.1.conv1"),
    rename("block_2.norm2", "resnets.1.norm2"),
    rename("block_2.conv2", "resnets.1.conv2"),
];

const fn matrix(native: &'static str, ours: &'static str) -> Rule {
    Rule { native, ours, operation: Operation::Matrix }
}

/// Whether these tensor names are those of a native file.
pub fn is_native<'a>(names: impl IntoIterator<Item = &'a str>) -> bool {
    names.into_iter().any(|name| bare(name) == MARKER)
}

/// The mapping of a native tensor, in a file with `levels` resolutions, to diffusers; `None` if it has the
/// same name there or is unknown.
pub fn to_diffusers(native: &str, levels: usize) -> Option<Mapped> {
    let name = bare(native);
    let after = |prefix: String, table: &[Rule], name: &str| {
        Some(match look_up(table, name)? {
            Mapped::Same(name) => Mapped::Same(prefix + &name),
            Mapped::Matrix(name) => Mapped::Matrix(prefix + &name),
            other => other,
        })
    };
    for part in ["encoder", "decoder"] {
        if let Some(inner) = name.strip_prefix(part).and_then(|name| name.strip_prefix(".mid.")) {
            return after(format!("{part}.mid_block."), &MIDDLE, inner);
        }
    }
    if let Some((level, inner)) = name.strip_prefix(UP).and_then(|name| name.split_once('.')) {
        let from_lowest = levels.checked_sub(1)?.checked_sub(level.parse().ok()?)?;
        return after(format!("decoder.up_blocks.{from_lowest}."), &LEVEL, inner);
    }
    look_up(&TABLE, name).or_else(|| (name != native).then(|| Mapped::Same(name.to_owned())))
}

/// The tensors under the names of diffusers, whichever they have now.
pub(crate) fn translated(weights: Weights) -> Result<Weights, CheckpointError> {
    if !is_native(weights.names()) {
        return Ok(weights);
    }
    let levels = PREFIXES.iter().chain(&[""]).map(|prefix| weights.count(&format!("{prefix}{UP}"))).max();
    weights.mapped(|name| to_diffusers(name, levels.unwrap_or_default()))
}

fn bare(name: &str) -> &str {
    PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name)
}

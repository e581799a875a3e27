//! Single files of the transformers as Black Forest Labs publish them: `flux2-dev.safetensors`,
//! `flux-2-klein-4b.safetensors` and their siblings.
//!
//! Source: `convert_flux2_transformer_checkpoint_to_diffusers` of diffusers 0.42.1.

use candle_core::Device;

use super::Flux2Config;
use crate::{
    checkpoint::{
        AdapterNames, AdapterPart, CheckpointError, ConfigError, Folder, WeightDtype, Weights,
        table::{Rule, rename},
    },
    flux::native::{COMMON, Generation, HEAD, Layout, blocks, guided, heads},
};

const FLUX2: Layout = Layout { generation: Generation::Flux2, table: &TABLE, parameters: &["weight"] };

const TABLE: [Rule; 13] = [
    rename("time_in.in_layer", "time_guidance_embed.timestep_embedder.linear_1"),
    rename("time_in.out_layer", "time_guidance_embed.timestep_embedder.linear_2"),
    rename("guidance_in.in_layer", "time_guidance_embed.guidance_embedder.linear_1"),
    rename("guidance_in.out_layer", "time_guidance_embed.guidance_embedder.linear_2"),
    rename("double_stream_modulation_img.lin", "double_stream_modulation_img.linear"),
    rename("double_stream_modulation_txt.lin", "double_stream_modulation_txt.linear"),
    rename("single_stream_modulation.lin", "single_stream_modulation.linear"),
    rename("double_blocks.*.img_mlp.0", "transformer_blocks.*.ff.linear_in"),
    rename("double_blocks.*.img_mlp.2", "transformer_blocks.*.ff.linear_out"),
    rename("double_blocks.*.txt_mlp.0", "transformer_blocks.*.ff_context.linear_in"),
    rename("double_blocks.*.txt_mlp.2", "transformer_blocks.*.ff_context.linear_out"),
    rename("single_blocks.*.linear1", "single_transformer_blocks.*.attn.to_qkv_mlp_proj"),
    rename("single_blocks.*.linear2", "single_transformer_blocks.*.attn.to_out"),
];

/// The names that adapters for FLUX.2 use besides those of diffusers.
pub const ADAPTER: AdapterNames =
    AdapterNames { family: "FLUX", tables: &[&COMMON, &TABLE], part: AdapterPart::Network, encoders: &[] };

/// The transformer in `file`, under the names of diffusers, with its sizes.
///
/// What cannot be inferred from a tensor is as in all published models: the base of the rotary frequencies
/// and the epsilon of the norms. The channels of a head are divided equally among the axes of positions; if
/// the quarters are not even numbers, they are rounded down to even and the first axis gets the rest.
///
/// # Errors
/// A file that cannot be read or is not of FLUX.2; a tensor that is missing or unexpected, by its native
/// name; sizes that do not fit together.
pub fn open(
    folder: &Folder,
    file: &str,
    device: &Device,
    dtype: WeightDtype,
) -> Result<(Flux2Config, Weights), CheckpointError> {
    FLUX2.open(folder, file, device, dtype, config)
}

fn config(weights: &Weights) -> Result<Result<Flux2Config, ConfigError>, CheckpointError> {
    let [inner, in_channels] = weights.axes("img_in.weight")?;
    let [_, joint_attention_dim] = weights.axes("txt_in.weight")?;
    let [_, timestep_guidance_channels] = weights.axes("time_in.in_layer.weight")?;
    let [_, hidden] = weights.axes("double_blocks.0.img_mlp.2.weight")?;
    let [out_channels, _] = weights.axes("final_layer.linear.weight")?;
    let [num_attention_heads, attention_head_dim] = heads(weights, HEAD, inner)?;
    let [num_layers, num_single_layers] = blocks(weights);
    let axis = attention_head_dim / 4 / 2 * 2;
    Ok(Flux2Config {
        patch_size: 1,
        in_channels,
        out_channels,
        num_layers,
        num_single_layers,
        attention_head_dim,
        num_attention_heads,
        joint_attention_dim,
        timestep_guidance_channels,
        mlp_ratio: ratio(hidden, inner),
        axes_dims_rope: [attention_head_dim - 3 * axis, axis, axis, axis],
        guidance_embeds: guided(weights),
        ..Flux2Config::default()
    }
    .validated())
}

/// `hidden / inner`, such that its product with `inner`, rounded down, is `hidden` again.
fn ratio(hidden: usize, inner: usize) -> f64 {
    let ratio = hidden as f64 / inner as f64;
    if (ratio * inner as f64) < hidden as f64 { ratio.next_up() } else { ratio }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_gives_its_hidden_channels_again() {
        for inner in 1..200usize {
            for hidden in 1..800 {
                assert_eq!((inner as f64 * ratio(hidden, inner)) as usize, hidden, "{hidden} / {inner}");
            }
        }
        assert_eq!((ratio(9216, 3072), ratio(40, 16)), (3.0, 2.5));
    }
}

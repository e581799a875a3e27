//! Single files of the transformers as Black Forest Labs publish them: `flux1-dev.safetensors`,
//! `flux1-schnell.safetensors` and their siblings.
//!
//! Source: `convert_flux_transformer_checkpoint_to_diffusers` of diffusers 0.42.1.

use candle_core::Device;

use super::FluxConfig;
use crate::{
    checkpoint::{
        AdapterNames, CheckpointError, ConfigError, Folder, WeightDtype, Weights,
        table::{Rule, rename, split},
    },
    flux::native::{COMMON, Generation, Layout, QKV, blocks, guided, heads},
};

const FLUX1: Layout =
    Layout { generation: Generation::Flux1, table: &TABLE, parameters: &["weight", "bias"] };

const TABLE: [Rule; 15] = [
    rename("time_in.in_layer", "time_text_embed.timestep_embedder.linear_1"),
    rename("time_in.out_layer", "time_text_embed.timestep_embedder.linear_2"),
    rename("vector_in.in_layer", "time_text_embed.text_embedder.linear_1"),
    rename("vector_in.out_layer", "time_text_embed.text_embedder.linear_2"),
    rename("guidance_in.in_layer", "time_text_embed.guidance_embedder.linear_1"),
    rename("guidance_in.out_layer", "time_text_embed.guidance_embedder.linear_2"),
    rename("double_blocks.*.img_mod.lin", "transformer_blocks.*.norm1.linear"),
    rename("double_blocks.*.txt_mod.lin", "transformer_blocks.*.norm1_context.linear"),
    rename("double_blocks.*.img_mlp.0", "transformer_blocks.*.ff.net.0.proj"),
    rename("double_blocks.*.img_mlp.2", "transformer_blocks.*.ff.net.2"),
    rename("double_blocks.*.txt_mlp.0", "transformer_blocks.*.ff_context.net.0.proj"),
    rename("double_blocks.*.txt_mlp.2", "transformer_blocks.*.ff_context.net.2"),
    rename("single_blocks.*.modulation.lin", "single_transformer_blocks.*.norm.linear"),
    // The feed-forward has four times the width.
    split(
        "single_blocks.*.linear1",
        "single_transformer_blocks.*.{}",
        &[("attn.to_q", 1), ("attn.to_k", 1), ("attn.to_v", 1), ("proj_mlp", 4)],
    ),
    rename("single_blocks.*.linear2", "single_transformer_blocks.*.proj_out"),
];

/// The names of XLabs' adapters, whose processors belong to the projections of an attention.
const XLABS: [Rule; 6] = [
    split("double_blocks.*.processor.qkv_lora1", "transformer_blocks.*.attn.to_{}", QKV),
    split("double_blocks.*.processor.qkv_lora2", "transformer_blocks.*.attn.add_{}_proj", QKV),
    rename("double_blocks.*.processor.proj_lora1", "transformer_blocks.*.attn.to_out.0"),
    rename("double_blocks.*.processor.proj_lora2", "transformer_blocks.*.attn.to_add_out"),
    // Without the rows of the feed-forward.
    split("single_blocks.*.processor.qkv_lora", "single_transformer_blocks.*.attn.to_{}", QKV),
    rename("single_blocks.*.processor.proj_lora", "single_transformer_blocks.*.proj_out"),
];

/// The names that adapters for FLUX.1 use besides those of diffusers.
pub const ADAPTER: AdapterNames = AdapterNames { family: "FLUX", tables: &[&COMMON, &TABLE, &XLABS] };

/// The transformer in `file`, under the names of diffusers, with its sizes.
///
/// The channels of a head are divided among the axes of positions as in the published models, 16, 56 and 56
/// of 128; with another number, rows and columns get 7/16 each, rounded down to an even number, and the index
/// the rest. A `config.json` of diffusers beside the file goes before all that.
///
/// # Errors
/// A file that cannot be read or is not of FLUX.1; a tensor that is missing or unexpected, by its native
/// name; sizes that do not fit together.
pub fn open(
    folder: &Folder,
    file: &str,
    device: &Device,
    dtype: WeightDtype,
) -> Result<(FluxConfig, Weights), CheckpointError> {
    const CONFIG: &str = "config.json";
    // What no tensor says may be in a configuration beside the file.
    let beside = || FluxConfig::from_json(&folder.read_to_string(CONFIG).ok()?).ok();
    let stated = if folder.exists(CONFIG) { beside() } else { None };
    FLUX1.open(folder, file, device, dtype, |weights| {
        stated.clone().map_or_else(|| config(weights), |own| Ok(Ok(own)))
    })
}

fn config(weights: &Weights) -> Result<Result<FluxConfig, ConfigError>, CheckpointError> {
    let [inner, in_channels] = weights.axes("img_in.weight")?;
    let [_, joint_attention_dim] = weights.axes("txt_in.weight")?;
    let [_, pooled_projection_dim] = weights.axes("vector_in.in_layer.weight")?;
    let [out_channels, _] = weights.axes("final_layer.linear.weight")?;
    let [num_attention_heads, attention_head_dim] = heads(weights, inner)?;
    let [num_layers, num_single_layers] = blocks(weights);
    let plane = attention_head_dim * 7 / 16 / 2 * 2;
    Ok(FluxConfig {
        patch_size: 1,
        in_channels,
        out_channels,
        num_layers,
        num_single_layers,
        attention_head_dim,
        num_attention_heads,
        joint_attention_dim,
        pooled_projection_dim,
        guidance_embeds: guided(weights),
        axes_dims_rope: [attention_head_dim - 2 * plane, plane, plane],
    }
    .validated())
}

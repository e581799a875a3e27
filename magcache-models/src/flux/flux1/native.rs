//! Single files of the transformers as Black Forest Labs publish them: `flux1-dev.safetensors`,
//! `flux1-schnell.safetensors` and their siblings.
//!
//! Source: `convert_flux_transformer_checkpoint_to_diffusers` of diffusers 0.42.1.

use candle_core::Device;

use super::FluxConfig;
use crate::{
    checkpoint::{
        AdapterNames, AdapterPart, CheckpointError, ConfigError, Folder, WeightDtype, Weights,
        table::{Rule, rename, split},
    },
    flux::native::{COMMON, Generation, HEAD, Layout, QKV, blocks, guided, heads},
    recognise::{self, Role},
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
pub const ADAPTER: AdapterNames = AdapterNames {
    family: "FLUX",
    tables: &[&COMMON, &TABLE, &XLABS],
    part: AdapterPart::Network,
    encoders: &[AdapterPart::Clip, AdapterPart::T5],
};

/// The layout of files with the names of diffusers.
const DIFFUSERS: &str = "flux1_diffusers";

/// The transformer in `file`, under the names of diffusers, with its sizes. The file has these names or those
/// of Black Forest Labs.
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
    let config = |weights: &Weights, from: &Tensors| {
        stated.clone().map_or_else(|| config(weights, from), |own| Ok(Ok(own)))
    };
    let names = Weights::open_files(folder, &[file], &Device::Cpu, WeightDtype::Keep)?;
    if recognise::parts(&names).iter().any(|part| part.is(DIFFUSERS)) {
        let weights = recognise::open(folder, file, Role::Transformer, device, dtype)?;
        let config = config(&weights, &OF_DIFFUSERS)?.map_err(|error| CheckpointError::BadConfig {
            file: weights.place(),
            reason: error.to_string(),
        })?;
        return Ok((config, weights));
    }
    FLUX1.open(folder, file, device, dtype, |weights| config(weights, &NATIVE))
}

/// What sizes are inferred from.
struct Tensors {
    /// Matrices whose inputs or outputs they are.
    image: &'static str,
    text: &'static str,
    pooled: &'static str,
    output: &'static str,
    head: &'static str,
    blocks: fn(&Weights) -> [usize; 2],
    guided: fn(&Weights) -> bool,
}

const NATIVE: Tensors = Tensors {
    image: "img_in.weight",
    text: "txt_in.weight",
    pooled: "vector_in.in_layer.weight",
    output: "final_layer.linear.weight",
    head: HEAD,
    blocks,
    guided,
};

const OF_DIFFUSERS: Tensors = Tensors {
    image: "x_embedder.weight",
    text: "context_embedder.weight",
    pooled: "time_text_embed.text_embedder.linear_1.weight",
    output: "proj_out.weight",
    head: "transformer_blocks.0.attn.norm_q.weight",
    blocks: |weights| ["transformer_blocks", "single_transformer_blocks"].map(|list| weights.count(list)),
    guided: |weights| weights.contains("time_text_embed.guidance_embedder.linear_1.weight"),
};

fn config(weights: &Weights, from: &Tensors) -> Result<Result<FluxConfig, ConfigError>, CheckpointError> {
    let [inner, in_channels] = weights.axes(from.image)?;
    let [_, joint_attention_dim] = weights.axes(from.text)?;
    let [_, pooled_projection_dim] = weights.axes(from.pooled)?;
    let [out_channels, _] = weights.axes(from.output)?;
    let [num_attention_heads, attention_head_dim] = heads(weights, from.head, inner)?;
    let [num_layers, num_single_layers] = (from.blocks)(weights);
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
        guidance_embeds: (from.guided)(weights),
        axes_dims_rope: [attention_head_dim - 2 * plane, plane, plane],
    }
    .validated())
}

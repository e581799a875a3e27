//! The modules of FLUX.1: native, diffusers.

use super::Layout;
use crate::checkpoint::table::{Rule, rename, split, swap};

pub(super) const FLUX1: Layout = Layout {
    model: "FLUX.1 transformer",
    markers: [
        "img_in.weight",
        "vector_in.in_layer.weight",
        "double_blocks.0.img_mod.lin.weight",
        "final_layer.linear.weight",
    ],
    table: &TABLE,
    parameters: &["weight", "bias"],
};

const TABLE: [Rule; 29] = [
    rename("img_in", "x_embedder"),
    rename("txt_in", "context_embedder"),
    rename("time_in.in_layer", "time_text_embed.timestep_embedder.linear_1"),
    rename("time_in.out_layer", "time_text_embed.timestep_embedder.linear_2"),
    rename("vector_in.in_layer", "time_text_embed.text_embedder.linear_1"),
    rename("vector_in.out_layer", "time_text_embed.text_embedder.linear_2"),
    rename("guidance_in.in_layer", "time_text_embed.guidance_embedder.linear_1"),
    rename("guidance_in.out_layer", "time_text_embed.guidance_embedder.linear_2"),
    rename("double_blocks.*.img_mod.lin", "transformer_blocks.*.norm1.linear"),
    rename("double_blocks.*.txt_mod.lin", "transformer_blocks.*.norm1_context.linear"),
    split("double_blocks.*.img_attn.qkv", "transformer_blocks.*.attn.to_{}", &[("q", 1), ("k", 1), ("v", 1)]),
    split(
        "double_blocks.*.txt_attn.qkv",
        "transformer_blocks.*.attn.add_{}_proj",
        &[("q", 1), ("k", 1), ("v", 1)],
    ),
    rename("double_blocks.*.img_attn.norm.query_norm", "transformer_blocks.*.attn.norm_q"),
    rename("double_blocks.*.img_attn.norm.key_norm", "transformer_blocks.*.attn.norm_k"),
    rename("double_blocks.*.txt_attn.norm.query_norm", "transformer_blocks.*.attn.norm_added_q"),
    rename("double_blocks.*.txt_attn.norm.key_norm", "transformer_blocks.*.attn.norm_added_k"),
    rename("double_blocks.*.img_attn.proj", "transformer_blocks.*.attn.to_out.0"),
    rename("double_blocks.*.txt_attn.proj", "transformer_blocks.*.attn.to_add_out"),
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
    rename("single_blocks.*.norm.query_norm", "single_transformer_blocks.*.attn.norm_q"),
    rename("single_blocks.*.norm.key_norm", "single_transformer_blocks.*.attn.norm_k"),
    rename("final_layer.linear", "proj_out"),
    // Shift, then scale: the other way round than in diffusers.
    swap("final_layer.adaLN_modulation.1", "norm_out.linear"),
];

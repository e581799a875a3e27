//! Language models in single files.

use candle_core::Device;

use crate::{
    checkpoint::{
        CheckpointError, Folder, WeightDtype, Weights,
        table::{Rule, look_up, rename},
    },
    recognise::{self, Role},
};

/// The names of llama.cpp, for files of GGUF, and those of the hub.
const GGUF: [Rule; 14] = [
    rename("token_embd", "model.embed_tokens"),
    rename("output_norm", "model.norm"),
    rename("output", "lm_head"),
    rename("blk.*.attn_norm", "model.layers.*.input_layernorm"),
    rename("blk.*.attn_q", "model.layers.*.self_attn.q_proj"),
    rename("blk.*.attn_k", "model.layers.*.self_attn.k_proj"),
    rename("blk.*.attn_v", "model.layers.*.self_attn.v_proj"),
    rename("blk.*.attn_output", "model.layers.*.self_attn.o_proj"),
    rename("blk.*.attn_q_norm", "model.layers.*.self_attn.q_norm"),
    rename("blk.*.attn_k_norm", "model.layers.*.self_attn.k_norm"),
    rename("blk.*.ffn_norm", "model.layers.*.post_attention_layernorm"),
    rename("blk.*.ffn_gate", "model.layers.*.mlp.gate_proj"),
    rename("blk.*.ffn_up", "model.layers.*.mlp.up_proj"),
    rename("blk.*.ffn_down", "model.layers.*.mlp.down_proj"),
];

/// Opens the language model in a file, under the names of the hub.
///
/// # Errors
/// A file without one; a tensor that is missing, unexpected or of another shape.
pub fn open_language_model(
    folder: &Folder,
    file: &str,
    device: &Device,
    dtype: WeightDtype,
) -> Result<Weights, CheckpointError> {
    let weights = recognise::open(folder, file, Role::TextEncoder, device, dtype)?;
    if weights.contains("token_embd.weight") {
        weights.mapped(|name| look_up(&GGUF, name))
    } else {
        Ok(weights)
    }
}

//! The text encoder, `models_t5_umt5-xxl-enc-bf16.pth`: native, transformers' `UMT5EncoderModel`.
//!
//! Source: `T5Encoder` in `wan/modules/t5.py` of Wan2.1 and Wan2.2, with a position table in every block.

use crate::checkpoint::Mapped;
use crate::checkpoint::table::{Rule, look_up, rename};

const TABLE: [Rule; 12] = [
    rename("token_embedding", "shared"),
    rename("norm", "encoder.final_layer_norm"),
    rename("blocks.*.norm1", "encoder.block.*.layer.0.layer_norm"),
    rename("blocks.*.attn.q", "encoder.block.*.layer.0.SelfAttention.q"),
    rename("blocks.*.attn.k", "encoder.block.*.layer.0.SelfAttention.k"),
    rename("blocks.*.attn.v", "encoder.block.*.layer.0.SelfAttention.v"),
    rename("blocks.*.attn.o", "encoder.block.*.layer.0.SelfAttention.o"),
    rename(
        "blocks.*.pos_embedding.embedding",
        "encoder.block.*.layer.0.SelfAttention.relative_attention_bias",
    ),
    rename("blocks.*.norm2", "encoder.block.*.layer.1.layer_norm"),
    rename("blocks.*.ffn.gate.0", "encoder.block.*.layer.1.DenseReluDense.wi_0"),
    rename("blocks.*.ffn.fc1", "encoder.block.*.layer.1.DenseReluDense.wi_1"),
    rename("blocks.*.ffn.fc2", "encoder.block.*.layer.1.DenseReluDense.wo"),
];

/// The mapping of a native text encoder tensor; `None` for one that our model does not have.
pub fn text_encoder(native: &str) -> Option<Mapped> {
    look_up(&TABLE, native)
}

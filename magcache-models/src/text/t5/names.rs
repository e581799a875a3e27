//! Names of the encoder's tensors in files, mapped to those of transformers.

use crate::checkpoint::{
    Mapped,
    table::{Rule, look_up, rename},
};

/// The Wan team's: `T5Encoder` in `wan/modules/t5.py` of Wan2.1 and Wan2.2, with a position table in every
/// block.
const NATIVE: [Rule; 12] = [
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

/// llama.cpp's, for files of GGUF.
const GGUF: [Rule; 12] = [
    rename("token_embd", "shared"),
    rename("enc.output_norm", "encoder.final_layer_norm"),
    rename("enc.blk.*.attn_norm", "encoder.block.*.layer.0.layer_norm"),
    rename("enc.blk.*.attn_q", "encoder.block.*.layer.0.SelfAttention.q"),
    rename("enc.blk.*.attn_k", "encoder.block.*.layer.0.SelfAttention.k"),
    rename("enc.blk.*.attn_v", "encoder.block.*.layer.0.SelfAttention.v"),
    rename("enc.blk.*.attn_o", "encoder.block.*.layer.0.SelfAttention.o"),
    rename("enc.blk.*.attn_rel_b", "encoder.block.*.layer.0.SelfAttention.relative_attention_bias"),
    rename("enc.blk.*.ffn_norm", "encoder.block.*.layer.1.layer_norm"),
    rename("enc.blk.*.ffn_gate", "encoder.block.*.layer.1.DenseReluDense.wi_0"),
    rename("enc.blk.*.ffn_up", "encoder.block.*.layer.1.DenseReluDense.wi_1"),
    rename("enc.blk.*.ffn_down", "encoder.block.*.layer.1.DenseReluDense.wo"),
];

/// The mapping of a tensor under the Wan team's names; `None` for one that the encoder does not have.
pub(crate) fn native(name: &str) -> Option<Mapped> {
    look_up(&NATIVE, name)
}

/// The mapping of a tensor under llama.cpp's names; `None` for one that the encoder does not have.
pub(crate) fn gguf(name: &str) -> Option<Mapped> {
    look_up(&GGUF, name)
}

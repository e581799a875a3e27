//! The vision tower in `models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth`: native, transformers'
//! `CLIPVisionModel` without its prefix `vision_model.`.
//!
//! Source: `VisionTransformer` in `wan/modules/clip.py` of Wan2.1. The file also contains the text tower and
//! the heads of both, which no Wan model uses.

use crate::checkpoint::Mapped;
use crate::checkpoint::table::{Operation, Rule, look_up, rename, split};

const fn squeeze(native: &'static str, ours: &'static str) -> Rule {
    Rule { native, ours, operation: Operation::Squeeze }
}

const fn omit(native: &'static str) -> Rule {
    Rule { native, ours: "", operation: Operation::Omit }
}

const TABLE: [Rule; 14] = [
    squeeze("visual.cls_embedding", "embeddings.class_embedding"),
    squeeze("visual.pos_embedding", "embeddings.position_embedding.weight"),
    rename("visual.patch_embedding", "embeddings.patch_embedding"),
    rename("visual.pre_norm", "pre_layrnorm"),
    rename("visual.post_norm", "post_layernorm"),
    rename("visual.transformer.*.norm1", "encoder.layers.*.layer_norm1"),
    split(
        "visual.transformer.*.attn.to_qkv",
        "encoder.layers.*.self_attn.{}_proj",
        &[("q", 1), ("k", 1), ("v", 1)],
    ),
    rename("visual.transformer.*.attn.proj", "encoder.layers.*.self_attn.out_proj"),
    rename("visual.transformer.*.norm2", "encoder.layers.*.layer_norm2"),
    rename("visual.transformer.*.mlp.0", "encoder.layers.*.mlp.fc1"),
    rename("visual.transformer.*.mlp.2", "encoder.layers.*.mlp.fc2"),
    omit("visual.head"),
    omit("textual."),
    omit("log_scale"),
];

/// The mapping of a native CLIP tensor; `None` for one that our model does not have.
pub fn clip_vision(native: &str) -> Option<Mapped> {
    look_up(&TABLE, native)
}

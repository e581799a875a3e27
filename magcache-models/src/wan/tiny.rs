//! The small trained video models inside the binary, in the folder layout of a published checkpoint.

use crate::{
    checkpoint::{EmbeddedFile, Folder},
    pipeline::{Embedded, embedded_files},
};

/// What the video models were trained on.
const MOVING_SHAPES: &str = "a COLOUR SHAPE moving DIRECTION [and ...], such as \"a red circle moving right\"; \
                             COLOUR: red, green, blue, yellow, white, purple; SHAPE: circle, square, triangle; \
                             DIRECTION: right, left, up, down";

static WAN21_T2V: &[EmbeddedFile] = embedded_files!("wan2.1-t2v-tiny":
    "magcache.json",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
);

/// The small Wan2.1 text-to-video model.
pub fn wan21_t2v() -> Folder {
    Folder::embedded("wan2.1-t2v-tiny", WAN21_T2V)
}

static WAN22_T2V: &[EmbeddedFile] = embedded_files!("wan2.2-t2v-tiny":
    "magcache.json",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "transformer_2/config.json",
    "transformer_2/diffusion_pytorch_model.safetensors",
);

static WAN22_I2V: &[EmbeddedFile] = embedded_files!("wan2.2-i2v-tiny":
    "example.png",
    "magcache.json",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
);

/// The small Wan2.2 text-to-video pair. Text encoder, tokenizer and autoencoder are those of [`wan21_t2v`].
pub fn wan22_t2v() -> Folder {
    Folder::embedded("wan2.2-t2v-tiny", WAN22_T2V).or_embedded(WAN21_T2V)
}

/// The small image-to-video model. Text encoder, tokenizer and autoencoder are those of [`wan21_t2v`].
pub fn wan22_i2v() -> Folder {
    Folder::embedded("wan2.2-i2v-tiny", WAN22_I2V).or_embedded(WAN21_T2V)
}

magcache_core::inventory::submit! {
    Embedded { name: "wan2.1-t2v-tiny", folder: wan21_t2v, prompts: MOVING_SHAPES, is_default: true }
}

magcache_core::inventory::submit! {
    Embedded { name: "wan2.2-t2v-tiny", folder: wan22_t2v, prompts: MOVING_SHAPES, is_default: false }
}

magcache_core::inventory::submit! {
    Embedded { name: "wan2.2-i2v-tiny", folder: wan22_i2v, prompts: MOVING_SHAPES, is_default: false }
}

//! The small trained image model inside the binary, in the folder layout of a published checkpoint.

use crate::{
    checkpoint::{EmbeddedFile, Folder},
    pipeline::{Embedded, embedded_files},
};

/// What the image model was trained on.
const SHAPES: &str = "a COLOUR SHAPE [and a COLOUR SHAPE], such as \"a red circle and a blue square\"; \
                      COLOUR: red, green, blue, yellow, white, purple; SHAPE: circle, square, triangle";

static FLUX: &[EmbeddedFile] = embedded_files!("tiny-flux":
    "magcache.json",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder_2/config.json",
    "text_encoder_2/model.safetensors",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer_2/tokenizer.json",
    "tokenizer_2/tokenizer_config.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
);

/// The small FLUX.1 text-to-image model.
pub fn flux() -> Folder {
    Folder::embedded("tiny-flux", FLUX)
}

magcache_core::inventory::submit! {
    Embedded { name: "tiny-flux", folder: flux, prompts: SHAPES, is_default: false }
}

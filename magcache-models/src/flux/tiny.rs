//! The small trained image model inside the binary, in the folder layout of a published checkpoint.

use crate::{
    checkpoint::{EmbeddedFile, Folder},
    pipeline::{Embedded, embedded_files},
};

/// What the image model was trained on.
const SHAPES: &str = "a COLOUR [TEXTURE] SHAPE [and a COLOUR [TEXTURE] SHAPE] PLACE, such as \"a red striped circle and a \
                      blue ball at dusk\"; COLOUR: red, yellow, green, cyan, blue, purple, white; TEXTURE: striped, \
                      checked, speckled; SHAPE: circle, square, triangle, star, ring, ball; PLACE: at night, at dusk, in \
                      fog, on sand";

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
    "transformer/diffusion_pytorch_model.gguf",
    "vae/config.json",
    "vae/diffusion_pytorch_model.gguf",
);

/// The small FLUX.1 text-to-image model.
pub fn flux() -> Folder {
    Folder::embedded("tiny-flux", FLUX)
}

magcache_core::inventory::submit! {
    Embedded { name: "tiny-flux", folder: flux, prompts: SHAPES, is_default: false }
}

//! The small trained video models inside the binary, in the folder layout of a published checkpoint.

use crate::{
    checkpoint::{EmbeddedFile, Folder},
    pipeline::{Embedded, embedded_files},
};

/// What the video models were trained on.
const MOVING_SHAPES: &str = "a COLOUR [TEXTURE] SHAPE MOTION [and ...] PLACE [panning left or right], such as \
                             \"a red striped circle moving right at night\"; COLOUR: red, yellow, green, cyan, blue, \
                             purple, white; TEXTURE: striped, checked, speckled; SHAPE: circle, square, triangle, star, \
                             ring, ball; MOTION: moving right, left, up or down, spinning; PLACE: at night, at dusk, in \
                             fog, on sand";

/// Text encoder, tokenizer and autoencoder of a folder.
macro_rules! parts {
    ($folder:literal) => {
        embedded_files!($folder:
            "text_encoder/config.json",
            "text_encoder/model.safetensors",
            "tokenizer/tokenizer.json",
            "tokenizer/tokenizer_config.json",
            "vae/config.json",
            "vae/diffusion_pytorch_model.gguf",
        )
    };
}

/// What those with a prompt of this grammar have in common.
static SHARED: &[EmbeddedFile] = parts!("wan2.1-t2v-tiny");

static WAN21_T2V: &[EmbeddedFile] = embedded_files!("wan2.1-t2v-tiny":
    "lora/4-step.safetensors",
    "magcache.json",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.gguf",
);

/// The small Wan2.1 text-to-video model.
pub fn wan21_t2v() -> Folder {
    Folder::embedded("wan2.1-t2v-tiny", WAN21_T2V).or_embedded(SHARED)
}

static WAN22_T2V: &[EmbeddedFile] = embedded_files!("wan2.2-t2v-tiny":
    "magcache.json",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.gguf",
    "transformer_2/config.json",
    "transformer_2/diffusion_pytorch_model.gguf",
);

static WAN22_I2V: &[EmbeddedFile] = embedded_files!("wan2.2-i2v-tiny":
    "example.png",
    "magcache.json",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.gguf",
);

/// The small Wan2.2 text-to-video pair.
pub fn wan22_t2v() -> Folder {
    Folder::embedded("wan2.2-t2v-tiny", WAN22_T2V).or_embedded(SHARED)
}

/// The small image-to-video model.
pub fn wan22_i2v() -> Folder {
    Folder::embedded("wan2.2-i2v-tiny", WAN22_I2V).or_embedded(SHARED)
}

static WAN22_S2V: &[EmbeddedFile] = embedded_files!("wan2.2-s2v-tiny":
    "config.json",
    "diffusion_pytorch_model.gguf",
    "example.png",
    "example.wav",
    "magcache.json",
    "wav2vec2-large-xlsr-53-english/config.json",
    "wav2vec2-large-xlsr-53-english/model.safetensors",
    "wav2vec2-large-xlsr-53-english/preprocessor_config.json",
);

static S2V_PARTS: &[EmbeddedFile] = parts!("wan2.2-s2v-tiny");

/// The small speech-to-video model, in the native layout.
pub fn wan22_s2v() -> Folder {
    Folder::embedded("wan2.2-s2v-tiny", WAN22_S2V).or_embedded(S2V_PARTS)
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

magcache_core::inventory::submit! {
    Embedded {
        name: "wan2.2-s2v-tiny",
        folder: wan22_s2v,
        prompts: "a COLOUR SHAPE moving, such as \"a yellow circle moving\", the same as in the picture; it grows with \
                  the loudness and rises with the pitch of the recording",
        is_default: false,
    }
}

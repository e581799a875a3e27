//! Tensor names of the native Wan releases, mapped to the names that this crate's models read.
//!
//! The native repositories (`Wan-AI/Wan2.1-T2V-1.3B` and its siblings) and files derived from them use other
//! tensor names: for the transformer and the autoencoders than diffusers, for the text and image encoders
//! than transformers. Each part has a table here.

mod clip;
mod transformer;

pub use crate::autoencoder::video::{VaeNames, vae};
pub use clip::clip_vision;
pub use transformer::{ADAPTER, is_native, to_diffusers, to_native};

use crate::checkpoint::{
    Mapped,
    table::{Rule, look_up},
};

/// Tensors that identify the files of a part, and the name of that part.
const MARKERS: [(&str, &str); 8] = [
    ("head.modulation", "Wan transformer (native names)"),
    ("condition_embedder.time_proj.weight", "Wan transformer"),
    ("token_embedding.weight", "UMT5 text encoder (native names)"),
    ("shared.weight", "T5 text encoder"),
    ("decoder.middle.0.residual.0.gamma", "Wan video autoencoder (native names)"),
    ("decoder.mid_block.resnets.0.norm1.gamma", "Wan video autoencoder"),
    ("visual.cls_embedding", "CLIP image encoder (native names)"),
    ("vision_model.embeddings.class_embedding", "CLIP image encoder"),
];

/// The name of the part of a Wan model that has these tensors; `None` for other models.
pub fn recognise<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<&'static str> {
    let part = |name| MARKERS.iter().find(|(marker, _)| *marker == transformer::bare(name));
    names.into_iter().find_map(part).map(|(_, part)| *part)
}

/// The name in a table of other names alone.
fn same(table: &[Rule], name: &str) -> Option<String> {
    match look_up(table, name)? {
        Mapped::Same(name) => Some(name),
        _ => None,
    }
}

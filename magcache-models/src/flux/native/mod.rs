//! Single files of the transformers as Black Forest Labs publish them: their generation, and how their
//! tensors become those of diffusers ([`flux1::native`](super::flux1::native),
//! [`flux2::native`](super::flux2::native)).
//!
//! The modules have other names than in diffusers, projections that are separate in diffusers are one tensor,
//! and the last modulation has the shift before the scale. The tensors of diffusers are rows of the file's:
//! nothing is copied, and every value is the same. The sizes are inferred from the tensors. Differences from
//! the converters of diffusers: any width is accepted, not only those published; an unexpected tensor is an
//! error, because it may stand for a part of the network that would be left out silently.

mod layout;

use std::collections::HashSet;

pub(crate) use self::layout::{COMMON, HEAD, Layout, QKV, blocks, guided, heads};

/// The generation whose layout a native file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// FLUX.1: dev, schnell, Kontext, Fill and others with the same blocks.
    Flux1,
    /// FLUX.2: dev and klein.
    Flux2,
}

/// Prefixes that single files add to every name of the transformer.
const PREFIXES: [&str; 5] = ["", "model.diffusion_model.", "diffusion_model.", "model.model.", "net."];

impl Generation {
    /// Tensors that every native file of the generation has, besides blocks; no file of another model has
    /// them all.
    const fn markers(self) -> [&'static str; 3] {
        let own = match self {
            Self::Flux1 => "vector_in.in_layer.weight",
            Self::Flux2 => "single_stream_modulation.lin.weight",
        };
        ["img_in.weight", own, "final_layer.linear.weight"]
    }

    /// A tensor of the first block of each kind. A file has both; one that lacks dual-stream blocks is
    /// recognised too, so that it can be told what is missing.
    const fn blocks(self) -> [&'static str; 2] {
        let dual = match self {
            Self::Flux1 => "double_blocks.0.img_mod.lin.weight",
            Self::Flux2 => "double_blocks.0.img_attn.qkv.weight",
        };
        [dual, "single_blocks.0.linear1.weight"]
    }

    /// The prefix of the names, if they are those of such a file.
    fn prefix(self, names: &HashSet<&str>) -> Option<&'static str> {
        PREFIXES.into_iter().find(|prefix| {
            let there = |name: &&str| names.contains(&*format!("{prefix}{name}"));
            self.markers().iter().all(there) && self.blocks().iter().any(there)
        })
    }

    /// The name of its transformers in messages.
    const fn model(self) -> &'static str {
        match self {
            Self::Flux1 => "FLUX.1 transformer",
            Self::Flux2 => "FLUX.2 transformer",
        }
    }
}

/// The generation of a native transformer with tensors of these names, with or without the prefix of single
/// files; `None` for anything else, including folders of diffusers.
pub fn generation<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<Generation> {
    generation_of(&names.into_iter().collect())
}

fn generation_of(names: &HashSet<&str>) -> Option<Generation> {
    [Generation::Flux1, Generation::Flux2].into_iter().find(|generation| generation.prefix(names).is_some())
}

/// Tensors that a transformer of each generation has in diffusers, and no other model has.
const DIFFUSERS: [(&str, Generation); 2] = [
    ("single_transformer_blocks.0.proj_mlp.weight", Generation::Flux1),
    ("double_stream_modulation_img.linear.weight", Generation::Flux2),
];

/// The name of a file with these tensors, in either layout; `None` for other models.
pub fn recognise<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<&'static str> {
    let names: HashSet<&str> = names.into_iter().collect();
    let guided =
        names.iter().any(|name| name.contains("guidance_in.") || name.contains("guidance_embedder."));
    let (generation, native) = match generation_of(&names) {
        Some(generation) => (generation, true),
        None => (DIFFUSERS.into_iter().find(|(name, _)| names.contains(name))?.1, false),
    };
    Some(match (generation, guided, native) {
        (Generation::Flux1, true, true) => "FLUX.1 transformer with guidance (native names)",
        (Generation::Flux1, false, true) => "FLUX.1 transformer without guidance (native names)",
        (Generation::Flux2, true, true) => "FLUX.2 transformer with guidance (native names)",
        (Generation::Flux2, false, true) => "FLUX.2 transformer without guidance (native names)",
        (Generation::Flux1, true, false) => "FLUX.1 transformer with guidance",
        (Generation::Flux1, false, false) => "FLUX.1 transformer without guidance",
        (Generation::Flux2, true, false) => "FLUX.2 transformer with guidance",
        (Generation::Flux2, false, false) => "FLUX.2 transformer without guidance",
    })
}

//! A model of one's own, from the folder to the picture: a stack of blocks that take and return the tuple
//! `(text, image)`, a text encoder, a decoder, and the pipeline that `magcache run --model DIR` opens.
//!
//! The guide `docs/guide/add-a-model.md` walks through these files.

mod decoder;
mod denoiser;
mod model;
mod pipeline;
mod text;

use magcache_core::{ModelMeta, Signal, StackMeta, inventory};

pub use model::Mini;
pub use pipeline::MiniPipeline;

/// Channels of a token.
pub const HIDDEN: usize = 16;

/// What the model says about itself.
pub const META: ModelMeta = ModelMeta::of("mini", env!("CARGO_PKG_NAME"))
    .summary("an example of a model in a crate of its own")
    .stacks(&[StackMeta::dual("blocks", 8)])
    .signals(&[Signal::ModulatedInput])
    .hidden_size(HIDDEN)
    .meta();

inventory::submit! { META }

/// Keeps this crate, and so its registrations, in a binary that names nothing else of it.
pub fn link() {}

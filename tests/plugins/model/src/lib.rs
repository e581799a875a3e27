//! A model of one's own, from the folder to the picture: a stack of blocks that take and return the tuple
//! `(text, image)`, a text encoder, a decoder, and the pipeline that `magcache run --model DIR` opens.
//!
//! The guide `docs/guide/add-a-model.md` walks through these files.

mod decoder;
mod denoiser;
mod model;
mod pipeline;
mod text;

use std::borrow::Cow;

use magcache_core::{ModelMeta, Role, Signal, StackMeta, inventory};

pub use model::Mini;
pub use pipeline::MiniPipeline;

/// Channels of a token.
pub const HIDDEN: usize = 16;

/// What a block returns, in order.
const OUTPUTS: &[Role] = &[Role::Text, Role::Image];
const SIGNALS: &[Signal] = &[Signal::ModulatedInput];
const STACKS: &[StackMeta] = &[StackMeta { name: "blocks", blocks: 8, outputs: OUTPUTS }];

/// What the model says about itself.
pub const META: ModelMeta = ModelMeta {
    name: Cow::Borrowed("mini"),
    summary: Cow::Borrowed("an example of a model in a crate of its own"),
    stacks: Cow::Borrowed(STACKS),
    modules: Cow::Borrowed(&[]),
    experts: Cow::Borrowed(&["transformer"]),
    guided: true,
    text_after: false,
    signals: Cow::Borrowed(SIGNALS),
    hidden_size: HIDDEN,
    profiles: Cow::Borrowed(&[]),
    origin: env!("CARGO_PKG_NAME"),
};

inventory::submit! { META }

/// The same with as many blocks as a checkpoint has.
pub fn meta(blocks: usize) -> ModelMeta {
    let stacks = STACKS.iter().map(|stack| StackMeta { blocks, ..*stack }).collect();
    ModelMeta { stacks, ..META }
}

/// Keeps this crate, and so its registrations, in a binary that names nothing else of it.
pub fn link() {}

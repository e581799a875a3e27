//! Caches in models and samplers of one's own: a video model of two networks, an image model of two stacks.
//!
//! The guide `docs/guide/add-a-model.md` begins with these files; without caches they are in `tests/before`.

pub mod flux;
pub mod sample;
pub mod wan;

use magcache_core::{ModelMeta, StackMeta, inventory};

/// What the video model says about itself.
pub const WAN: ModelMeta = ModelMeta::of("own-wan", env!("CARGO_PKG_NAME"))
    .stacks(&[StackMeta::image("blocks", 6)])
    .experts(&["high", "low"])
    .meta();
inventory::submit! { WAN }

/// What the image model says about itself.
pub const FLUX: ModelMeta = ModelMeta::of("own-flux", env!("CARGO_PKG_NAME"))
    .stacks(&[StackMeta::dual("double", 3), StackMeta::dual("single", 6)])
    .unguided()
    .meta();
inventory::submit! { FLUX }

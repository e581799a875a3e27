//! The onion: hooks around ranges of blocks, the chain that runs them, and the request state that they share.

pub(crate) mod hook;
pub(crate) mod module;
pub(crate) mod next;
pub(crate) mod output;
pub(crate) mod pass;
pub(crate) mod registry;
mod ring;
pub(crate) mod session;
mod shape;
pub(crate) mod stacks;

pub use hook::Probe;
pub use output::LazyOutput;
pub use registry::Builder;
pub use ring::{ModuleRings, Ring};

//! The onion: hooks around ranges of blocks, the chain that runs them, and the request state that they share.

pub(crate) mod hook;
mod lazy;
pub(crate) mod module;
pub(crate) mod next;
pub(crate) mod pass;
pub(crate) mod registry;
pub(crate) mod session;
mod shape;
pub(crate) mod stacks;

pub use hook::{Probe, Ring};
pub use lazy::LazyOutput;
pub use module::ModuleRings;
pub use registry::Builder;

//! What the language models that read prompts have in common: blocks with causal attention and shared heads
//! of keys and values, and their rotary positions.

mod block;
mod file;
mod rope;

pub(super) use block::{CausalBlock, CausalSizes};
pub use file::open_language_model;
pub(super) use rope::{HalfRotary, frequencies};

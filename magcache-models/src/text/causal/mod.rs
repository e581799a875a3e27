//! What the language models that read prompts have in common: blocks with causal attention and shared heads
//! of keys and values, and their rotary positions.

mod block;
mod rope;

pub(super) use block::{CausalBlock, CausalSizes};
pub(super) use rope::{HalfRotary, frequencies};

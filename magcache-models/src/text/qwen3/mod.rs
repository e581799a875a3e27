//! Qwen3 without its head, as a text encoder.

mod block;
mod chat;
mod config;
mod encoder;
mod rope;

pub use chat::{Qwen3Thinking, Qwen3Tokenizer, qwen3_chat};
pub use config::Qwen3Config;
pub use encoder::{KLEIN_LAYERS, Qwen3Encoder};

//! Qwen3 without its head, as a text encoder.

mod chat;
mod config;
mod encoder;

pub use chat::{Qwen3Thinking, Qwen3Tokenizer, qwen3_chat};
pub use config::Qwen3Config;
pub use encoder::{KLEIN_LAYERS, Qwen3Encoder};

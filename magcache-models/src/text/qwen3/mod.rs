//! The text encoder of FLUX.2 klein: Qwen3 without its head.

mod chat;
mod config;
mod encoder;

pub use chat::{Qwen3Tokenizer, qwen3_chat};
pub use config::Qwen3Config;
pub use encoder::{KLEIN_LAYERS, Qwen3Encoder};

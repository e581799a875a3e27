//! Text encoders and their tokenizers.
//!
//! [`T5Encoder`] is the encoder of T5 v1.1 (Flux) and of UMT5 (Wan), [`Qwen3Encoder`] that of FLUX.2 klein; CLIP's is in
//! [`crate::clip`]. [`WanTextEncoder`], [`FluxTextEncoder`] and [`Flux2TextEncoder`] join encoders with tokenizers to what a pipeline needs:
//! prompts in, embeddings out.

mod bias;
mod block;
mod clean;
mod clip_bpe;
mod config;
mod encoder;
mod entities;
mod error;
mod flux;
mod flux2;
mod qwen3;
pub(crate) mod rows;
mod tokenizer;
mod wan;

pub use bias::RelativePositions;
pub use clean::clean_prompt;
pub use config::{T5Config, T5Variant};
pub use encoder::T5Encoder;
pub use error::{TextError, TokenizerError};
pub use flux::{FluxPrompt, FluxPromptEmbeds, FluxTextEncoder};
pub use flux2::Flux2TextEncoder;
pub use qwen3::{KLEIN_LAYERS, Qwen3Config, Qwen3Encoder, Qwen3Tokenizer, qwen3_chat};
pub use tokenizer::{MAX_PROMPT_CHARS, PromptTokenizer, TokenizedPrompt, TokenizerDefaults, WanTokenizer};
pub use wan::WanTextEncoder;

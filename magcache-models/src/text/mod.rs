//! Text encoders and their tokenizers.
//!
//! [`T5Encoder`] is the encoder of T5 v1.1 (Flux) and of UMT5 (Wan). [`WanTextEncoder`] joins it with a
//! [`WanTokenizer`] to what a Wan pipeline needs: prompts in, embeddings out.

mod bias;
mod block;
mod clean;
mod config;
mod encoder;
mod entities;
mod error;
mod tokenizer;
mod wan;

pub use bias::RelativePositions;
pub use clean::clean_prompt;
pub use config::{T5Config, T5Variant};
pub use encoder::T5Encoder;
pub use error::{TextError, TokenizerError};
pub use tokenizer::{MAX_PROMPT_CHARS, TokenizedPrompt, WanTokenizer};
pub use wan::WanTextEncoder;

//! Text encoders and their tokenizers.
//!
//! [`T5Encoder`] is the encoder of T5 v1.1 and of UMT5, [`Qwen3Encoder`] that of Qwen3; CLIP's shares its
//! blocks with the vision encoder and lives in the same module. Every family combines encoders and tokenizers
//! into what its pipeline needs: prompts in, embeddings out.

mod causal;
mod clean;
mod clip_bpe;
mod entities;
mod error;
mod qwen25vl;
mod qwen3;
pub(crate) mod rows;
mod t5;
mod tokenizer;
mod unigram;

pub use causal::open_language_model;
pub use clean::clean_prompt;
pub use error::{TextError, TokenizerError};
pub use qwen3::{KLEIN_LAYERS, Qwen3Config, Qwen3Encoder, Qwen3Thinking, Qwen3Tokenizer, qwen3_chat};
pub use qwen25vl::{
    Qwen25VlConfig, Qwen25VlEncoder, SeenPictures, VisionConfig, picture_patches, processed, processed_size,
};
pub(crate) use t5::names as t5_names;
pub use t5::{RelativePositions, T5Config, T5Encoder, T5File, T5Variant, open_t5, open_t5_as};
pub use tokenizer::{
    MAX_PROMPT_CHARS, PromptTokenizer, TokenizedPrompt, TokenizerDefaults, TokenizerKind, WanTokenizer,
};

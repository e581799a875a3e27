//! Errors of prompts.

use magcache_core::hint::{self, Hint};

use super::MAX_PROMPT_CHARS;

/// Why a prompt cannot be turned into tokens.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A prompt far longer than any text encoder reads.
    #[error("the prompt has {chars} characters, at most {MAX_PROMPT_CHARS} are accepted")]
    TooLong {
        /// Characters of the prompt as given.
        chars: usize,
        /// Tokens that the encoder reads.
        max_length: usize,
    },
    /// Rows that are too short for any prompt, or longer than the model was trained to read.
    #[error("rows of {got} tokens were asked for, expected {least} to {most}")]
    Length {
        /// Tokens of a row.
        got: usize,
        /// One more than the tokenizer itself adds.
        least: usize,
        /// As many as the model reads.
        most: usize,
    },
    /// The tokenizer library failed on the prompt.
    #[error("cannot tokenize the prompt: {reason}")]
    Failed {
        /// The library's error.
        reason: String,
    },
}

impl Hint for TokenizerError {
    fn hint(&self) -> Option<String> {
        let Self::TooLong { max_length, .. } = self else { return None };
        Some(format!("the text encoder reads {max_length} tokens, about a page; shorten the prompt"))
    }
}

/// Why prompts could not be encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A prompt that cannot be turned into tokens.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Rows of token ids or masks that do not form a batch.
    #[error("row {row} of the {what} has {got} values, expected {expected}")]
    Ragged {
        /// Token ids or attention mask.
        what: &'static str,
        /// Row of the batch.
        row: usize,
        /// Its length.
        got: usize,
        /// Length of the first row of token ids.
        expected: usize,
    },
    /// A mask for another number of prompts.
    #[error("the attention mask has {got} rows, the token ids have {expected}")]
    MaskRows {
        /// Rows of the mask.
        got: usize,
        /// Rows of the token ids.
        expected: usize,
    },
    /// Nothing to encode.
    #[error("got {rows} prompts without tokens, expected at least one prompt and one token")]
    Empty {
        /// Rows of the batch.
        rows: usize,
    },
    /// A token that the encoder has no embedding for: tokenizer and encoder come from different models.
    #[error("token {id} is outside the text encoder's vocabulary of {vocab_size}")]
    UnknownToken {
        /// The token.
        id: u32,
        /// Embeddings that the encoder has.
        vocab_size: usize,
    },
    /// More tokens than the encoder has positions for.
    #[error("got {got} tokens, the text encoder reads at most {max}")]
    TooManyTokens {
        /// Tokens of a row.
        got: usize,
        /// The encoder's number of positions, `max_position_embeddings`.
        max: usize,
    },
    /// The tensor library failed, for instance because memory ran out.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl Hint for TextError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Tokenizer(error) => error.hint(),
            Self::UnknownToken { .. } => {
                Some("the folders tokenizer and text_encoder must come from one model".to_owned())
            }
            Self::Tensor(error) => hint::of(error),
            _ => None,
        }
    }
}

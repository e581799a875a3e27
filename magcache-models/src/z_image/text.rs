//! From prompts to embeddings.

use candle_core::Tensor;

use crate::{
    checkpoint::{CheckpointError, Weights},
    text::{
        Qwen3Config, Qwen3Encoder, Qwen3Thinking, Qwen3Tokenizer, TextError, TokenizedPrompt, TokenizerError,
    },
};

/// What the chat template says about thinking before the answer.
pub(super) const THINKING: Qwen3Thinking = Qwen3Thinking::Free;

/// Tokenizer and text encoder of a Z-Image model.
///
/// The encoder is two thirds as large as the transformer. Load it, encode all prompts, drop it, and only then
/// load the transformer.
#[derive(Clone, Debug)]
pub struct ZImageTextEncoder {
    tokenizer: Qwen3Tokenizer,
    encoder: Qwen3Encoder,
}

impl ZImageTextEncoder {
    /// All blocks but the last are loaded: its input is what the transformer reads.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load(
        tokenizer: Qwen3Tokenizer,
        weights: &Weights,
        config: &Qwen3Config,
    ) -> Result<Self, CheckpointError> {
        let last = config.num_hidden_layers.saturating_sub(1);
        Ok(Self { tokenizer, encoder: Qwen3Encoder::load(weights, config, &[last])? })
    }

    /// The most tokens of a prompt, the conversation around it included.
    pub fn max_length(&self) -> usize {
        self.tokenizer.max_length()
    }

    /// The tokens of a prompt in its conversation.
    ///
    /// # Errors
    /// A prompt that cannot be turned into tokens.
    pub fn tokenize(&self, prompt: &str) -> Result<TokenizedPrompt, TokenizerError> {
        self.tokenizer.encode(prompt)
    }

    /// The embedding of a prompt without its padding, f32 `[1, tokens, hidden_size]`, equal to
    /// `ZImagePipeline._encode_prompt` of diffusers (0.42.1).
    ///
    /// # Errors
    /// A token outside the vocabulary.
    pub fn encode_tokens(&self, prompt: &TokenizedPrompt) -> Result<Tensor, TextError> {
        let own = prompt.input_ids.get(..prompt.len).unwrap_or(&prompt.input_ids);
        self.encoder.forward(&[own], None)
    }
}

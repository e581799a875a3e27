//! From prompts to embeddings for FLUX.2 klein.

use candle_core::{Device, Tensor};

use crate::{
    checkpoint::{CheckpointError, Folder, WeightDtype},
    text::{
        KLEIN_LAYERS, Qwen3Encoder, Qwen3Thinking, Qwen3Tokenizer, TextError, TokenizedPrompt, TokenizerError,
    },
};

/// Tokenizer and text encoder of a FLUX.2 klein model.
///
/// The encoder is about as large as the transformer. Load it, encode all prompts, drop it, and only then load
/// the transformer.
#[derive(Clone, Debug)]
pub struct Flux2TextEncoder {
    tokenizer: Qwen3Tokenizer,
    text_encoder: Qwen3Encoder,
}

impl Flux2TextEncoder {
    /// Reads the folders `tokenizer` and `text_encoder` of a model.
    ///
    /// [`WeightDtype::Keep`] leaves the weights as they are stored; the arithmetic is f32 in any case.
    ///
    /// # Errors
    /// A fault in a folder.
    pub fn load(model: &Folder, device: &Device, dtype: WeightDtype) -> Result<Self, CheckpointError> {
        Ok(Self {
            tokenizer: Qwen3Tokenizer::open(&model.sub("tokenizer"), Qwen3Thinking::Off)?,
            text_encoder: Qwen3Encoder::open(&model.sub("text_encoder"), device, dtype, &KLEIN_LAYERS)?,
        })
    }

    /// Rows of the embeddings.
    pub fn max_length(&self) -> usize {
        self.tokenizer.max_length()
    }

    /// The tokens of a prompt in its conversation, for inspection before [`Self::encode_tokens`].
    ///
    /// # Errors
    /// A prompt that cannot be turned into tokens.
    pub fn tokenize(&self, prompt: &str) -> Result<TokenizedPrompt, TokenizerError> {
        self.tokenizer.encode(prompt)
    }

    /// Embeddings of prompts, f32 `[batch, tokens, 3 * hidden_size]` with the padding included, equal to
    /// `Flux2KleinPipeline.encode_prompt` of diffusers (0.42.1): `[1, 512, 7680]` for one prompt and klein
    /// 4B.
    ///
    /// # Errors
    /// Rows of different lengths, or no prompt at all.
    pub fn encode_tokens(&self, prompts: &[TokenizedPrompt]) -> Result<Tensor, TextError> {
        let ids: Vec<&[u32]> = prompts.iter().map(|prompt| prompt.input_ids.as_slice()).collect();
        let masks: Vec<&[u32]> = prompts.iter().map(|prompt| prompt.attention_mask.as_slice()).collect();
        self.text_encoder.forward(&ids, Some(&masks))
    }
}

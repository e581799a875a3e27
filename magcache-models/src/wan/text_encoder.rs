//! From prompts to embeddings.

use candle_core::{Device, Tensor};

use crate::{
    checkpoint::{CheckpointError, Folder, WeightDtype, Weights},
    text::{T5Config, T5Encoder, TextError, TokenizedPrompt, WanTokenizer},
};

/// Tokenizer and text encoder of a Wan model.
///
/// UMT5-XXL is as large as a transformer. Load it, encode all prompts, drop it, and only then load the
/// transformer.
#[derive(Clone, Debug)]
pub struct WanTextEncoder {
    tokenizer: WanTokenizer,
    encoder: T5Encoder,
}

impl WanTextEncoder {
    /// Reads the folders `tokenizer` and `text_encoder` of a model.
    ///
    /// [`WeightDtype::Keep`] leaves the weights as they are stored; the arithmetic is f32 in any case.
    pub fn load(model: &Folder, device: &Device, dtype: WeightDtype) -> Result<Self, CheckpointError> {
        let folder = model.sub("text_encoder");
        let config = T5Config::read(&folder)?;
        let tokenizer = WanTokenizer::open(&model.sub("tokenizer"))?;
        Self::from_parts(tokenizer, &Weights::open(&folder, device, dtype)?, &config)
    }

    /// From separate parts: the tokenizer, and the encoder's tensors under the names of transformers.
    pub fn from_parts(
        tokenizer: WanTokenizer,
        weights: &Weights,
        config: &T5Config,
    ) -> Result<Self, CheckpointError> {
        Ok(Self { tokenizer, encoder: T5Encoder::load(weights, config)? })
    }

    /// The tokenizer, to inspect a prompt's tokens before [`Self::encode_tokens`].
    pub fn tokenizer(&self) -> &WanTokenizer {
        &self.tokenizer
    }

    /// Rows of every embedding.
    pub fn max_length(&self) -> usize {
        self.tokenizer.max_length()
    }

    /// The encoder.
    pub fn encoder(&self) -> &T5Encoder {
        &self.encoder
    }

    /// Embeddings of prompts, f32 `[batch, max_length, d_model]`, with zeros in the rows after a prompt's
    /// tokens.
    ///
    /// Equal to `WanPipeline.encode_prompt` of diffusers (0.42.1) except for the cleaning of unusual text,
    /// see [`clean_prompt`](crate::text::clean_prompt). Prompts that are too long are truncated silently; use
    /// [`Self::tokenizer`] and [`Self::encode_tokens`] to detect that.
    pub fn encode(&self, prompts: &[&str]) -> Result<Tensor, TextError> {
        let tokens: Vec<_> =
            prompts.iter().map(|prompt| self.tokenizer.encode(prompt)).collect::<Result<_, _>>()?;
        self.encode_tokens(&tokens)
    }

    /// [`Self::encode`] for prompts that are already tokenized.
    pub fn encode_tokens(&self, prompts: &[TokenizedPrompt]) -> Result<Tensor, TextError> {
        self.encoder.prompt_embeds(prompts)
    }
}

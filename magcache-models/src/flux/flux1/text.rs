//! From prompts to embeddings for FLUX.1.

use candle_core::{Device, Tensor};

use super::FluxTextParts;
use crate::{
    checkpoint::{Adapter, CheckpointError, Folder, WeightDtype},
    clip::ClipTextEncoder,
    pipeline::GivenFiles,
    text::{PromptTokenizer, T5Encoder, TextError, TokenizedPrompt, TokenizerDefaults, TokenizerError},
};

/// Tokens of T5 that FLUX.1 was trained to read.
const LONGEST: usize = TokenizerDefaults::T5.max_length;

/// Tokenizers and text encoders of a FLUX.1 model: CLIP for the prompt as a whole, T5 for its words.
///
/// T5-XXL is about as large as the transformer. Load it, encode all prompts, drop it, and only then load the
/// transformer.
#[derive(Clone, Debug)]
pub struct FluxTextEncoder {
    tokenizer: PromptTokenizer,
    text_encoder: ClipTextEncoder,
    tokenizer_2: PromptTokenizer,
    text_encoder_2: T5Encoder,
}

/// A prompt as the tokens of both encoders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FluxPrompt {
    /// CLIP's. T5, which reads far more tokens, still sees what is truncated here.
    pub clip: TokenizedPrompt,
    /// T5's.
    pub t5: TokenizedPrompt,
}

/// The embeddings of prompts for a FLUX.1 transformer.
#[derive(Clone, Debug)]
pub struct FluxPromptEmbeds {
    /// T5's hidden states, f32 `[batch, tokens, d_model]`, padding included: `[1, 512, 4096]` for one prompt
    /// and the published models.
    pub prompt_embeds: Tensor,
    /// CLIP's pooled embedding, f32 `[batch, hidden_size]`: `[1, 768]`.
    pub pooled_prompt_embeds: Tensor,
}

impl FluxTextEncoder {
    /// Reads the folders `tokenizer`, `text_encoder`, `tokenizer_2` and `text_encoder_2` of a model.
    ///
    /// [`WeightDtype::Keep`] leaves the weights as they are stored; the arithmetic is f32 in any case.
    ///
    /// # Errors
    /// A fault in a folder; a CLIP tokenizer with longer rows than its encoder has positions for.
    pub fn load(model: &Folder, device: &Device, dtype: WeightDtype) -> Result<Self, CheckpointError> {
        let parts = FluxTextParts::new(model.clone(), &GivenFiles::default())?;
        Self::load_parts(&parts, &[], device, dtype)
    }

    /// The same with parts in other places, as adapters change them.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_parts(
        parts: &FluxTextParts,
        adapters: &[Adapter],
        device: &Device,
        dtype: WeightDtype,
    ) -> Result<Self, CheckpointError> {
        let [tokenizer, tokenizer_2] = parts.tokenizers()?;
        let (config, config_2) = (parts.clip(device, dtype)?.0, parts.t5(device, dtype)?.0);
        let ([clip, t5], _) = parts.adapted(adapters, device, dtype)?;
        let (length, positions) = (tokenizer.max_length(), config.max_position_embeddings);
        if length > positions {
            let reason = format!(
                "model_max_length is {length}, max_position_embeddings of the text encoder is {positions}"
            );
            let [folder, _] = parts.tokenizer_folders();
            let file = folder.describe_file("tokenizer_config.json");
            return Err(CheckpointError::BadConfig { file, reason });
        }
        let text_encoder = ClipTextEncoder::load(&clip, &config)?;
        Ok(Self { tokenizer, text_encoder, tokenizer_2, text_encoder_2: T5Encoder::load(&t5, &config_2)? })
    }

    /// The same with T5 rows of `tokens` tokens (`max_sequence_length` of diffusers), at most 512.
    ///
    /// Defaults to `model_max_length` of `tokenizer_2`, which is 512 in the published models; diffusers
    /// always uses 512. FLUX.1-schnell was trained with 256.
    ///
    /// # Errors
    /// [`TokenizerError::Length`].
    pub fn with_max_sequence_length(self, tokens: usize) -> Result<Self, TokenizerError> {
        Ok(Self { tokenizer_2: self.tokenizer_2.with_max_length(tokens, LONGEST)?, ..self })
    }

    /// Rows of [`FluxPromptEmbeds::prompt_embeds`].
    pub fn max_sequence_length(&self) -> usize {
        self.tokenizer_2.max_length()
    }

    /// CLIP.
    pub fn text_encoder(&self) -> &ClipTextEncoder {
        &self.text_encoder
    }

    /// T5.
    pub fn text_encoder_2(&self) -> &T5Encoder {
        &self.text_encoder_2
    }

    /// The tokens of a prompt, for inspection before [`Self::encode_tokens`]. T5 reads `prompt_2` if given.
    ///
    /// # Errors
    /// A prompt that cannot be turned into tokens.
    pub fn tokenize(&self, prompt: &str, prompt_2: Option<&str>) -> Result<FluxPrompt, TokenizerError> {
        let t5 = self.tokenizer_2.encode(prompt_2.unwrap_or(prompt))?;
        Ok(FluxPrompt { clip: self.tokenizer.encode(prompt)?, t5 })
    }

    /// Words that T5's vocabulary lacks, see [`PromptTokenizer::unknown_words`].
    ///
    /// # Errors
    /// A prompt that is too long.
    pub fn unknown_words(&self, prompt: &str) -> Result<Vec<String>, TokenizerError> {
        self.tokenizer_2.unknown_words(prompt)
    }

    /// Embeddings of prompts, equal to `FluxPipeline.encode_prompt` of diffusers (0.42.1).
    ///
    /// Neither encoder gets a mask, so T5's padding takes part. Prompts that are too long are truncated
    /// silently; use [`Self::tokenize`] and [`Self::encode_tokens`] to detect that.
    ///
    /// # Errors
    /// A prompt that cannot be turned into tokens, or no prompt at all.
    pub fn encode(&self, prompts: &[&str]) -> Result<FluxPromptEmbeds, TextError> {
        let tokens: Vec<_> =
            prompts.iter().map(|prompt| self.tokenize(prompt, None)).collect::<Result<_, _>>()?;
        self.encode_tokens(&tokens)
    }

    /// [`Self::encode`] for prompts that are already tokenized.
    ///
    /// # Errors
    /// As [`Self::encode`]; rows of different lengths.
    pub fn encode_tokens(&self, prompts: &[FluxPrompt]) -> Result<FluxPromptEmbeds, TextError> {
        let clip: Vec<&[u32]> = prompts.iter().map(|prompt| prompt.clip.input_ids.as_slice()).collect();
        let t5: Vec<&[u32]> = prompts.iter().map(|prompt| prompt.t5.input_ids.as_slice()).collect();
        Ok(FluxPromptEmbeds {
            prompt_embeds: self.text_encoder_2.forward(&t5, None)?,
            pooled_prompt_embeds: self.text_encoder.forward(&clip)?.pooler_output,
        })
    }
}

//! From the tokens of prompts to hidden states and one embedding each.

use candle_core::{Device, Tensor};

use super::{
    ClipTextConfig,
    layer::{ClipLayers, LayerSizes},
};
use crate::{
    checkpoint::{CheckpointError, Folder, Matrix, WeightDtype, Weights},
    nn::LayerNorm,
    text::{
        TextError,
        rows::{causal_bias, check_rows, embed_rows},
    },
};

/// The `eos_token_id` of configurations written before transformers used the right one (its pull request
/// 24773), including those of `OpenAI` and of FLUX.1.
const LEGACY_EOS: u32 = 2;

/// `CLIPTextModel` of transformers (5.23.0): causal attention, no projection.
///
/// The pooled embedding is the hidden state of the first end token. If `eos_token_id` is 2, the configuration
/// is an old one with a wrong id, and the largest id of the row is used instead, which in CLIP's vocabulary
/// is the end token.
///
/// Weights keep their storage type and results are f32.
#[derive(Clone, Debug)]
pub struct ClipTextEncoder {
    config: ClipTextConfig,
    /// `[vocab_size, hidden_size]`.
    token_embedding: Matrix,
    /// `[max_position_embeddings, hidden_size]`.
    position_embedding: Tensor,
    layers: ClipLayers,
    final_layer_norm: LayerNorm,
}

/// The encoder's output for rows of tokens.
#[derive(Clone, Debug)]
pub struct ClipTextOutput {
    /// Hidden states after the last norm, f32 `[batch, tokens, hidden_size]`.
    pub last_hidden_state: Tensor,
    /// The row of the end token, f32 `[batch, hidden_size]`: `pooled_projections` of Flux.
    pub pooler_output: Tensor,
}

impl ClipTextEncoder {
    /// Reads a `text_encoder` folder.
    pub fn open(folder: &Folder, device: &Device, dtype: WeightDtype) -> Result<Self, CheckpointError> {
        let config = ClipTextConfig::read(folder)?;
        Self::load(&Weights::open(folder, device, dtype)?, &config)
    }

    /// Loads the tensors from `weights`, by their names on the hub (`text_model.encoder.layers.0...`) or as
    /// transformers 5 writes them, without `text_model.`.
    ///
    /// # Errors
    /// A missing tensor or a wrong shape.
    pub fn load(weights: &Weights, config: &ClipTextConfig) -> Result<Self, CheckpointError> {
        const PREFIX: &str = "text_model";
        weights.spare(&["text_projection."]);
        let bare = weights.contains("embeddings.token_embedding.weight");
        let weights = if bare { weights.clone() } else { weights.pp(PREFIX) };
        let channels = config.hidden_size;
        let embeddings = weights.pp("embeddings");
        embeddings.spare(&["position_ids"]);
        let sizes = LayerSizes {
            channels,
            hidden: config.intermediate_size,
            heads: config.num_attention_heads,
            eps: config.layer_norm_eps,
            activation: config.hidden_act,
        };
        Ok(Self {
            token_embedding: embeddings
                .pp("token_embedding")
                .matrix("weight", [config.vocab_size, channels])?,
            position_embedding: embeddings
                .pp("position_embedding")
                .get_f32("weight", &[config.max_position_embeddings, channels])?,
            layers: ClipLayers::load(&weights, config.num_hidden_layers, &sizes)?,
            final_layer_norm: LayerNorm::load(
                &weights.pp("final_layer_norm"),
                channels,
                config.layer_norm_eps,
            )?,
            config: config.clone(),
        })
    }

    /// The configuration that the encoder was built from.
    pub fn config(&self) -> &ClipTextConfig {
        &self.config
    }

    /// Encodes rows of equal length. There is no mask: the end token does not see what follows it.
    ///
    /// A row without an end token is pooled at its first token, as transformers does.
    ///
    /// # Errors
    /// Rows of different lengths, an empty batch, a token outside the vocabulary, more tokens than positions.
    pub fn forward<R: AsRef<[u32]>>(&self, input_ids: &[R]) -> Result<ClipTextOutput, TextError> {
        let hidden_states = self.run(input_ids, |_| ())?;
        let last_hidden_state = self.final_layer_norm.forward(&hidden_states)?;
        let tokens = last_hidden_state.dim(1)?;
        let ends =
            input_ids.iter().enumerate().map(|(row, ids)| (row * tokens + self.end(ids.as_ref())) as u32);
        let ends = Tensor::from_iter(ends, last_hidden_state.device())?;
        let pooler_output = last_hidden_state.flatten_to(1)?.index_select(&ends, 0)?;
        Ok(ClipTextOutput { last_hidden_state, pooler_output })
    }

    /// The embeddings, then the output of each block: `hidden_states` of transformers, the last of them
    /// without the norm.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn hidden_states<R: AsRef<[u32]>>(&self, input_ids: &[R]) -> Result<Vec<Tensor>, TextError> {
        let mut all = Vec::with_capacity(self.layers.len() + 1);
        let last = self.run(input_ids, |hidden_states| all.push(hidden_states.clone()))?;
        all.push(last);
        Ok(all)
    }

    /// Position of the token whose hidden state is the pooled embedding.
    fn end(&self, ids: &[u32]) -> usize {
        let end = match self.config.eos_token_id {
            LEGACY_EOS => ids.iter().copied().max(),
            token => Some(token),
        };
        ids.iter().position(|id| Some(*id) == end).unwrap_or(0)
    }

    /// Calls `before` with the input of each block.
    fn run<R: AsRef<[u32]>>(
        &self,
        input_ids: &[R],
        before: impl FnMut(&Tensor),
    ) -> Result<Tensor, TextError> {
        let length = check_rows(input_ids, None, self.config.vocab_size)?;
        let max = self.config.max_position_embeddings;
        if length > max {
            return Err(TextError::TooManyTokens { got: length, max });
        }
        let positions = self.position_embedding.narrow(0, 0, length)?;
        let hidden_states =
            embed_rows(&self.token_embedding, input_ids, length)?.broadcast_add(&positions)?;
        let bias = causal_bias::<&[u32]>(None, length, hidden_states.device())?;
        Ok(self.layers.forward(hidden_states, Some(&bias), before)?)
    }
}

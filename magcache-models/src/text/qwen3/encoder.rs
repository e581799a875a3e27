//! From rows of tokens to hidden states of selected layers.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use super::Qwen3Config;
use crate::{
    checkpoint::{CheckpointError, Folder, Matrix, WeightDtype, Weights},
    nn::RmsNorm,
    text::{
        TextError,
        causal::{CausalBlock, HalfRotary},
        rows::{causal_bias, check_rows, embed_rows},
    },
};

/// The hidden states that FLUX.2 klein reads: `hidden_states_layers` of `Flux2KleinPipeline` in diffusers
/// (0.42.1).
pub const KLEIN_LAYERS: [usize; 3] = [9, 18, 27];

/// The part of `Qwen3Model` of transformers (5.23.0) that a diffusion model reads.
///
/// Layers are counted as in its `hidden_states`: 0 is the embedding, `k` the residual stream after `k`
/// blocks. It is not normed, except for `num_hidden_layers`, which transformers returns after the final norm.
/// Neither the blocks after the last selected layer nor the head are loaded.
///
/// Weights keep their storage type and results are f32.
#[derive(Clone, Debug)]
pub struct Qwen3Encoder {
    config: Qwen3Config,
    layers: Vec<usize>,
    embed_tokens: Matrix,
    blocks: Vec<CausalBlock>,
    /// Loaded if the model's last layer is selected.
    norm: Option<RmsNorm>,
}

impl Qwen3Encoder {
    /// Reads a `text_encoder` folder, for example with [`KLEIN_LAYERS`].
    pub fn open(
        folder: &Folder,
        device: &Device,
        dtype: WeightDtype,
        layers: &[usize],
    ) -> Result<Self, CheckpointError> {
        let config = Qwen3Config::read(folder)?;
        Self::load(&Weights::open(folder, device, dtype)?, &config, layers)
    }

    /// Loads the tensors from `weights`, by the names of `Qwen3ForCausalLM` (`model.layers.0...`) or of
    /// `Qwen3Model`, without `model.`.
    ///
    /// # Errors
    /// [`CheckpointError::BadConfig`] for a layer that the model does not have or an empty selection; a
    /// missing tensor or a wrong shape.
    pub fn load(weights: &Weights, config: &Qwen3Config, layers: &[usize]) -> Result<Self, CheckpointError> {
        let count = config.num_hidden_layers;
        let last = match layers.iter().max() {
            Some(last) if *last <= count => *last,
            found => {
                let found = found.map_or_else(|| "none".to_owned(), |layer| format!("layer {layer}"));
                let reason = format!("num_hidden_layers is {count}, asked for are hidden states of {found}");
                return Err(CheckpointError::BadConfig { file: weights.place(), reason });
            }
        };
        weights.spare(&["lm_head."]);
        let weights =
            if weights.contains("embed_tokens.weight") { weights.clone() } else { weights.pp("model") };
        weights.spare(&["norm."]);
        (last..count).for_each(|layer| weights.spare(&[&format!("layers.{layer}.")]));
        let sizes = config.block();
        let block = |layer: usize| CausalBlock::load(&weights.pp("layers").pp(layer), &sizes);
        let norm = || RmsNorm::load(&weights.pp("norm"), config.hidden_size, config.rms_norm_eps);
        Ok(Self {
            embed_tokens: weights.matrix("embed_tokens.weight", [config.vocab_size, config.hidden_size])?,
            blocks: (0..last).map(block).collect::<Result<_, _>>()?,
            norm: (last == count).then(norm).transpose()?,
            layers: layers.to_vec(),
            config: config.clone(),
        })
    }

    /// The configuration that the encoder was built from.
    pub fn config(&self) -> &Qwen3Config {
        &self.config
    }

    /// The selected layers, in the order of the channels of [`Self::forward`].
    pub fn layers(&self) -> &[usize] {
        &self.layers
    }

    /// The selected hidden states, concatenated, f32 `[batch, tokens, layers * hidden_size]`: `prompt_embeds`
    /// of FLUX.2 klein.
    ///
    /// `input_ids` are rows of equal length, padded on the right. Attention is causal, and tokens whose
    /// `attention_mask` is 0 are not attended to. Their own rows are computed and kept, as in the pipeline.
    ///
    /// # Errors
    /// Rows of different lengths, an empty batch, a token outside the vocabulary.
    pub fn forward<R: AsRef<[u32]>>(
        &self,
        input_ids: &[R],
        attention_mask: Option<&[R]>,
    ) -> Result<Tensor, TextError> {
        Ok(Tensor::cat(&self.hidden_states(input_ids, attention_mask)?, 2)?)
    }

    /// [`Self::forward`] without concatenation: f32 `[batch, tokens, hidden_size]` for each selected layer.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn hidden_states<R: AsRef<[u32]>>(
        &self,
        input_ids: &[R],
        attention_mask: Option<&[R]>,
    ) -> Result<Vec<Tensor>, TextError> {
        let length = check_rows(input_ids, attention_mask, self.config.vocab_size)?;
        let device = self.embed_tokens.device();
        let rotary = HalfRotary::new(self.config.head_dim, self.config.rope_theta, length, device)?;
        let bias = causal_bias(attention_mask, length, device)?;
        let mut hidden_states = embed_rows(&self.embed_tokens, input_ids, length)?;
        let mut states = BTreeMap::from([(0, hidden_states.clone())]);
        for (layer, block) in (1..).zip(&self.blocks) {
            hidden_states = block.forward(&hidden_states, &rotary, &bias)?;
            if self.layers.contains(&layer) {
                states.insert(layer, hidden_states.clone());
            }
        }
        if let Some(norm) = &self.norm {
            states.insert(self.config.num_hidden_layers, norm.forward(&hidden_states)?);
        }
        Ok(self.layers.iter().filter_map(|layer| states.get(layer).cloned()).collect())
    }
}

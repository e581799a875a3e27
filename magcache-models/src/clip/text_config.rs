//! `config.json` of a CLIP text encoder.

use serde::Deserialize;
use serde_json::Value;

use super::{
    Activation,
    config::{parse, size_fault},
};
use crate::checkpoint::{
    CheckpointError, Folder, Weights,
    config::{small_number_fault, without_fault},
};

const MODEL_TYPE: &str = "clip_text_model";

/// Sizes of a CLIP text encoder, with the field names and the defaults of transformers.
///
/// Made by [`ClipTextConfig::read`], which checks every value.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct ClipTextConfig {
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Channels of the hidden states.
    pub hidden_size: usize,
    /// Hidden channels of the feed-forward layers.
    pub intermediate_size: usize,
    /// Blocks of the encoder.
    pub num_hidden_layers: usize,
    /// Attention heads of every block.
    pub num_attention_heads: usize,
    /// Number of positions.
    pub max_position_embeddings: usize,
    /// Function between the feed-forward layers.
    pub hidden_act: Activation,
    /// Added to the variance in every norm.
    pub layer_norm_eps: f64,
    /// The token whose hidden state represents the prompt. 2 means the largest id of the prompt instead, see
    /// [`ClipTextEncoder`](super::ClipTextEncoder).
    pub eos_token_id: u32,
}

impl Default for ClipTextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            eos_token_id: 49407,
        }
    }
}

impl ClipTextConfig {
    /// Reads and checks `config.json` of a `text_encoder` folder.
    ///
    /// # Errors
    /// [`CheckpointError::WrongArchitecture`] when `model_type` is not `clip_text_model`,
    /// [`CheckpointError::Json`] for a value of another type or an unknown activation,
    /// [`CheckpointError::BadConfig`] for values that no encoder can be built with.
    pub fn read(folder: &Folder) -> Result<Self, CheckpointError> {
        const FILE: &str = "config.json";
        Self::from_value(&folder.read_json(FILE)?, &folder.describe_file(FILE))
    }

    /// From the values of a `config.json`, whatever their source; messages call them `place`.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn from_value(value: &Value, place: &str) -> Result<Self, CheckpointError> {
        let config: Self = parse(value, MODEL_TYPE, place)?;
        let fault = config.fault();
        without_fault(config, fault, place)
    }

    /// The sizes of an encoder in a single file, from the shapes of its tensors: 64 channels a head, as in
    /// the published models.
    ///
    /// # Errors
    /// A missing tensor; as [`Self::read`].
    pub fn of(weights: &Weights) -> Result<Self, CheckpointError> {
        let own = weights.pp("text_model");
        let [vocab_size, hidden_size] = own.axes("embeddings.token_embedding.weight")?;
        let [positions, _] = own.axes::<2>("embeddings.position_embedding.weight")?;
        let [intermediate_size, _] = own.axes::<2>("encoder.layers.0.mlp.fc1.weight")?;
        let config = Self {
            vocab_size,
            hidden_size,
            intermediate_size,
            num_hidden_layers: own.count("encoder.layers."),
            num_attention_heads: (hidden_size / 64).max(1),
            max_position_embeddings: positions,
            ..Self::default()
        };
        let fault = config.fault();
        without_fault(config, fault, &weights.place())
    }

    fn fault(&self) -> Option<String> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        if let Some(reason) = size_fault(&sizes, self.hidden_size, self.num_attention_heads) {
            Some(reason)
        } else if self.eos_token_id as usize >= self.vocab_size {
            Some(format!("eos_token_id is {}, vocab_size is {}", self.eos_token_id, self.vocab_size))
        } else {
            small_number_fault("layer_norm_eps", self.layer_norm_eps)
        }
    }
}

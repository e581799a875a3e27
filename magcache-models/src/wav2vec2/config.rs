//! `config.json` of a wav2vec 2.0 encoder.

use serde::Deserialize;
use serde_json::Value;

use crate::checkpoint::{
    CheckpointError, Folder,
    config::{ModelType, small_number_fault, without_fault},
};

/// Samples per hidden state that the users of the encoder count on: 50 states a second at 16 kHz.
const HOP: usize = 320;

/// Far above any model, low enough that no product of two sizes overflows.
const LARGEST: usize = 1 << 20;

/// Most convolutions in front of the encoder.
const LAYERS: usize = 64;

/// Structure of an encoder, with the field names and the defaults of transformers.
///
/// Made by [`Wav2Vec2Config::read`], which checks every value. Supported is the structure of the large
/// models (XLSR-53): convolutions with a bias, each with a layer norm, exact GELU, and layers that norm
/// first. What concerns training or the heads on top is ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct Wav2Vec2Config {
    /// Channels of the hidden states.
    pub hidden_size: usize,
    /// Layers; there is one hidden state more.
    pub num_hidden_layers: usize,
    /// Attention heads of every layer.
    pub num_attention_heads: usize,
    /// Hidden channels of the feed-forward layers.
    pub intermediate_size: usize,
    /// Channels behind each convolution.
    pub conv_dim: Vec<usize>,
    /// Kernel of each convolution.
    pub conv_kernel: Vec<usize>,
    /// Stride of each convolution.
    pub conv_stride: Vec<usize>,
    /// Kernel of the convolution that stands for positions.
    pub num_conv_pos_embeddings: usize,
    /// Its groups.
    pub num_conv_pos_embedding_groups: usize,
    /// Added to the variance in every norm but those of the convolutions, which add 1e-5.
    pub layer_norm_eps: f64,
    /// Must be true.
    conv_bias: bool,
    /// Must be `layer`.
    feat_extract_norm: String,
    /// Must be `gelu`.
    feat_extract_activation: String,
    /// Must be `gelu`.
    hidden_act: String,
    /// Must be true: the norms stand in front of attention and feed-forward layers.
    do_stable_layer_norm: bool,
    /// Must be false: convolutions behind the encoder.
    add_adapter: bool,
    /// Must be null: adapters inside the layers.
    adapter_attn_dim: Option<usize>,
    /// Must be the number of convolutions, where it is given.
    num_feat_extract_layers: Option<usize>,
}

impl Default for Wav2Vec2Config {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            conv_dim: vec![512; 7],
            conv_kernel: vec![10, 3, 3, 3, 3, 2, 2],
            conv_stride: vec![5, 2, 2, 2, 2, 2, 2],
            num_conv_pos_embeddings: 128,
            num_conv_pos_embedding_groups: 16,
            layer_norm_eps: 1e-5,
            conv_bias: false,
            feat_extract_norm: "group".to_owned(),
            feat_extract_activation: "gelu".to_owned(),
            hidden_act: "gelu".to_owned(),
            do_stable_layer_norm: false,
            add_adapter: false,
            adapter_attn_dim: None,
            num_feat_extract_layers: None,
        }
    }
}

impl Wav2Vec2Config {
    /// Reads and checks `config.json` of an encoder's folder.
    ///
    /// # Errors
    /// [`CheckpointError::WrongArchitecture`] when `model_type` is not `wav2vec2`, [`CheckpointError::Json`]
    /// for a value of another type, [`CheckpointError::BadConfig`] for a structure that is not supported and
    /// values that no encoder can be built with.
    pub fn read(folder: &Folder) -> Result<Self, CheckpointError> {
        const FILE: &str = "config.json";
        Self::from_value(&folder.read_json(FILE)?, &folder.describe_file(FILE))
    }

    /// From the values of a `config.json`, whatever their source; messages call them `place`.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn from_value(value: &Value, place: &str) -> Result<Self, CheckpointError> {
        let json = |source| CheckpointError::Json { file: place.to_owned(), source };
        ModelType::deserialize(value).map_err(json)?.check(&["wav2vec2"], place)?;
        let config = Self::deserialize(value).map_err(json)?;
        let fault = config.structure_fault().or_else(|| config.size_fault());
        without_fault(config, fault, place)
    }

    /// Channels, kernel and stride of each convolution.
    pub(super) fn convolutions(&self) -> impl DoubleEndedIterator<Item = (usize, usize, usize)> + '_ {
        let shapes = self.conv_kernel.iter().zip(&self.conv_stride);
        self.conv_dim.iter().zip(shapes).map(|(channels, (kernel, stride))| (*channels, *kernel, *stride))
    }

    /// Hidden states of a recording of so many samples; 0 if it is too short for one.
    pub fn states(&self, samples: usize) -> usize {
        let behind = |tokens: usize, kernel: usize, stride: usize| {
            tokens.checked_sub(kernel).map_or(0, |rest| rest / stride.max(1) + 1)
        };
        self.convolutions().fold(samples, |tokens, (_, kernel, stride)| behind(tokens, kernel, stride))
    }

    /// An upper bound of the bytes that are alive at the peak for so many samples, in f32: of the first
    /// convolution with its norm, or of all hidden states and what a layer makes of one.
    pub fn activation_bytes(&self, samples: usize) -> u64 {
        const F32: usize = 4;
        // Input, output and two that the norm and the activation make.
        let first =
            self.convolutions().next().map_or(0, |(channels, _, stride)| samples / stride * channels * 4);
        let kept = self.hidden_size * (self.num_hidden_layers + 1);
        // Input, residual, queries, keys, values, their attention, sums; the feed-forward layer.
        let layer = 10 * self.hidden_size + self.intermediate_size;
        (first.max(self.states(samples) * (kept + layer)) * F32) as u64
    }

    /// Samples that so many hidden states in a row are computed from before the layers mix them.
    pub fn samples(&self, states: usize) -> usize {
        let before = |tokens: usize, kernel: usize, stride: usize| match tokens.checked_sub(1) {
            Some(others) => others.saturating_mul(stride).saturating_add(kernel),
            None => 0,
        };
        self.convolutions().rev().fold(states, |tokens, (_, kernel, stride)| before(tokens, kernel, stride))
    }

    /// What is switched on or off that is not supported.
    fn structure_fault(&self) -> Option<String> {
        let word = |key: &str, found: &str, supported: &str| {
            (found != supported).then(|| format!("{key} is \"{found}\", supported is \"{supported}\""))
        };
        let switch = |key: &str, found: bool, supported: bool| {
            (found != supported).then(|| format!("{key} is {found}, supported is {supported}"))
        };
        word("feat_extract_norm", &self.feat_extract_norm, "layer")
            .or_else(|| switch("do_stable_layer_norm", self.do_stable_layer_norm, true))
            .or_else(|| switch("conv_bias", self.conv_bias, true))
            .or_else(|| word("feat_extract_activation", &self.feat_extract_activation, "gelu"))
            .or_else(|| word("hidden_act", &self.hidden_act, "gelu"))
            .or_else(|| switch("add_adapter", self.add_adapter, false))
            .or_else(|| {
                let found = self.adapter_attn_dim?;
                Some(format!("adapter_attn_dim is {found}, supported is null"))
            })
    }

    fn size_fault(&self) -> Option<String> {
        let count = self.conv_dim.len();
        let lists = [("conv_kernel", self.conv_kernel.len()), ("conv_stride", self.conv_stride.len())];
        let told = self.num_feat_extract_layers.map(|told| ("num_feat_extract_layers", told));
        if let Some((key, length)) = lists.into_iter().chain(told).find(|(_, length)| *length != count) {
            return Some(format!("conv_dim has {count} layers, {key} {length}"));
        }
        if !(1..=LAYERS).contains(&count) {
            return Some(format!("conv_dim has {count} layers, expected 1 to {LAYERS}"));
        }
        let lists = [
            ("conv_dim", &self.conv_dim),
            ("conv_kernel", &self.conv_kernel),
            ("conv_stride", &self.conv_stride),
        ];
        let in_lists = lists.into_iter().flat_map(|(key, list)| list.iter().map(move |size| (key, *size)));
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("num_conv_pos_embeddings", self.num_conv_pos_embeddings),
            ("num_conv_pos_embedding_groups", self.num_conv_pos_embedding_groups),
        ];
        let all = sizes.into_iter().chain(in_lists);
        if let Some((key, size)) = all.into_iter().find(|(_, size)| !(1..=LARGEST).contains(size)) {
            return Some(format!("{key} is {size}, expected 1 to {LARGEST}"));
        }
        let parts = [
            ("num_attention_heads", self.num_attention_heads),
            ("num_conv_pos_embedding_groups", self.num_conv_pos_embedding_groups),
        ];
        let whole = self.hidden_size;
        if let Some((key, parts)) = parts.into_iter().find(|(_, parts)| !whole.is_multiple_of(*parts)) {
            return Some(format!("hidden_size is {whole}, not a multiple of {key} = {parts}"));
        }
        let hop = self.conv_stride.iter().fold(1, |hop: usize, stride| hop.saturating_mul(*stride));
        if hop != HOP {
            let strides = &self.conv_stride;
            return Some(format!(
                "conv_stride {strides:?} gives a state every {hop} samples, expected {HOP}"
            ));
        }
        small_number_fault("layer_norm_eps", self.layer_norm_eps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published file, with one change `key=value`.
    fn read(change: &str) -> Result<Wav2Vec2Config, CheckpointError> {
        let (key, value) = change.split_once('=').expect("key=value");
        let mut json = serde_json::json!({
            "model_type": "wav2vec2", "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
            "intermediate_size": 4096, "conv_bias": true, "feat_extract_norm": "layer",
            "do_stable_layer_norm": true, "feat_extract_activation": "gelu", "hidden_act": "gelu",
            "num_feat_extract_layers": 7, "layerdrop": 0.05, "mask_time_prob": 0.05, "gradient_checkpointing": true
        });
        json[key] = serde_json::from_str(value).expect("json");
        Wav2Vec2Config::from_value(&json, "config.json")
    }

    #[test]
    fn reads_what_transformers_writes() {
        let config = read("vocab_size=33").expect("a valid file");
        assert_eq!((config.conv_dim.as_slice(), config.conv_kernel[0]), (&[512; 7][..], 10));
        for (samples, states) in [(399, 0), (400, 1), (719, 1), (720, 2), (80_000, 249), (80_080, 250)] {
            assert_eq!(config.states(samples), states, "{samples}");
        }
        for states in [1, 2, 100] {
            let samples = config.samples(states);
            assert_eq!((config.states(samples), config.states(samples - 1)), (states, states - 1));
        }
    }

    #[test]
    fn names_what_is_wrong() {
        for (change, part) in [
            ("model_type=\"hubert\"", "\"hubert\", expected \"wav2vec2"),
            ("model_type=null", "expected \"wav2vec2"),
            ("feat_extract_norm=\"group\"", "feat_extract_norm is \"group\", supported is \"layer\""),
            ("do_stable_layer_norm=false", "do_stable_layer_norm is false, supported is true"),
            ("conv_bias=false", "conv_bias is false, supported is true"),
            ("hidden_act=\"gelu_new\"", "hidden_act is \"gelu_new\", supported is \"gelu\""),
            ("feat_extract_activation=\"relu\"", "feat_extract_activation is \"relu\""),
            ("add_adapter=true", "add_adapter is true, supported is false"),
            ("adapter_attn_dim=16", "adapter_attn_dim is 16, supported is null"),
            ("num_feat_extract_layers=6", "conv_dim has 7 layers, num_feat_extract_layers 6"),
            ("conv_kernel=[10, 3]", "conv_dim has 7 layers, conv_kernel 2"),
            ("conv_stride=[5, 2, 2, 2, 2, 2, 1]", "a state every 160 samples, expected 320"),
            ("conv_kernel=[10, 3, 3, 3, 3, 2, 0]", "conv_kernel is 0, expected 1 to"),
            ("num_attention_heads=7", "hidden_size is 1024, not a multiple of num_attention_heads = 7"),
            ("num_conv_pos_embedding_groups=3", "not a multiple of num_conv_pos_embedding_groups = 3"),
            ("intermediate_size=99999999999", "intermediate_size is 99999999999"),
            ("layer_norm_eps=0", "layer_norm_eps is 0"),
            ("hidden_size=1.5", "cannot parse"),
        ] {
            let message = read(change).expect_err(change).to_string();
            assert!(message.contains(part) && message.contains("config.json"), "{change}: {message}");
        }
        let bare = serde_json::json!({ "model_type": "wav2vec2" });
        assert!(Wav2Vec2Config::from_value(&bare, "config.json").is_err(), "the small model's structure");
    }
}

//! `config.json` of a Qwen3 model.

use serde::Deserialize;

use crate::{
    checkpoint::{
        CheckpointError, Folder, Weights,
        config::{ModelType, small_number_fault, without_fault},
    },
    text::causal::CausalSizes,
};

/// Sizes of a Qwen3 model, with the field names of transformers.
///
/// Made by [`Qwen3Config::read`], which checks every value.
#[derive(Clone, Debug, PartialEq)]
pub struct Qwen3Config {
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Channels of the hidden states.
    pub hidden_size: usize,
    /// Hidden channels of the feed-forward layers.
    pub intermediate_size: usize,
    /// Blocks of the whole model; the encoder loads only those that it needs.
    pub num_hidden_layers: usize,
    /// Heads of the queries.
    pub num_attention_heads: usize,
    /// Heads of the keys and the values, each of which serves the same number of query heads.
    pub num_key_value_heads: usize,
    /// Channels of a head. `num_attention_heads * head_dim` need not be `hidden_size`.
    pub head_dim: usize,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f64,
    /// Base of the rotary angles.
    pub rope_theta: f64,
    /// Whether the projections of the attention have biases.
    pub attention_bias: bool,
}

/// The file as written; `rope_parameters` is written by transformers 5, `rope_theta` and `rope_scaling` by
/// earlier versions.
#[derive(Deserialize)]
struct File {
    model_type: Option<String>,
    vocab_size: Option<usize>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    hidden_act: Option<String>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_parameters: Option<RopeParameters>,
    rope_scaling: Option<RopeParameters>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    use_sliding_window: bool,
}

#[derive(Default, Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
    #[serde(alias = "type")]
    rope_type: Option<String>,
}

/// Far above any model, low enough that no product of two sizes overflows.
const LARGEST: usize = 1 << 24;

/// The default of transformers.
const DEFAULT_HEAD_DIM: usize = 128;
const DEFAULT_EPS: f64 = 1e-6;
const DEFAULT_THETA: f64 = 10_000.0;

/// That of the published models.
const PUBLISHED_THETA: f64 = 1e6;

impl Qwen3Config {
    /// Reads and checks `config.json` of a `text_encoder` folder.
    ///
    /// # Errors
    /// [`CheckpointError::WrongArchitecture`] when `model_type` is not `qwen3`, [`CheckpointError::Json`] for
    /// a value of another type, [`CheckpointError::BadConfig`] when a size is missing or a value is not
    /// supported: other rotary embeddings than the plain ones, a sliding window, another activation than
    /// `silu`.
    pub fn read(folder: &Folder) -> Result<Self, CheckpointError> {
        const FILE: &str = "config.json";
        let file: File = folder.read_json(FILE)?;
        let place = folder.describe_file(FILE);
        ModelType { model_type: file.model_type.clone() }.check(&["qwen3"], &place)?;
        Self::from_file(file).map_err(|reason| CheckpointError::BadConfig { file: place, reason })
    }

    /// The sizes of a single file, from its tensors; what none of them says is as in the published models.
    ///
    /// # Errors
    /// A tensor that is missing or has another number of axes; sizes that do not fit together.
    pub fn of(weights: &Weights) -> Result<Self, CheckpointError> {
        let [vocab_size, hidden_size] = weights.axes("model.embed_tokens.weight")?;
        let [intermediate_size, _] = weights.axes("model.layers.0.mlp.gate_proj.weight")?;
        let [head_dim] = weights.axes("model.layers.0.self_attn.q_norm.weight")?;
        let heads = |name: &str| -> Result<usize, CheckpointError> {
            let [channels, _] = weights.axes(&format!("model.layers.0.self_attn.{name}.weight"))?;
            Ok(channels / head_dim.max(1))
        };
        let config = Self {
            vocab_size,
            hidden_size,
            intermediate_size,
            num_hidden_layers: weights.count("model.layers"),
            num_attention_heads: heads("q_proj")?,
            num_key_value_heads: heads("k_proj")?.max(1),
            head_dim,
            rms_norm_eps: DEFAULT_EPS,
            rope_theta: PUBLISHED_THETA,
            attention_bias: false,
        };
        let fault = config.fault();
        without_fault(config, fault, &weights.place())
    }

    /// Channels of the queries: heads times channels per head.
    pub fn inner_dim(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Channels of the keys and of the values.
    pub fn key_value_dim(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// The sizes of its blocks.
    pub(super) fn block(&self) -> CausalSizes {
        CausalSizes {
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_key_value_heads,
            head_dim: self.head_dim,
            rms_norm_eps: self.rms_norm_eps,
            bias: [self.attention_bias; 2],
            qk_norm: true,
        }
    }

    fn from_file(file: File) -> Result<Self, String> {
        let act = file.hidden_act.as_deref().unwrap_or("silu");
        if act != "silu" {
            return Err(format!("hidden_act is \"{act}\", supported is \"silu\""));
        }
        if file.use_sliding_window {
            return Err("use_sliding_window is true, supported is false".into());
        }
        let rope = file.rope_parameters.unwrap_or_default();
        for (key, kind) in [
            ("rope_parameters", rope.rope_type.as_deref()),
            ("rope_scaling", file.rope_scaling.as_ref().and_then(|rope| rope.rope_type.as_deref())),
        ] {
            if let Some(kind) = kind.filter(|kind| *kind != "default") {
                return Err(format!("rope_type in {key} is \"{kind}\", supported is \"default\""));
            }
        }
        let size = |key: &str, size: Option<usize>| match size {
            None => Err(format!("{key} is missing")),
            Some(size) if (1..=LARGEST).contains(&size) => Ok(size),
            Some(size) => Err(format!("{key} is {size}, expected 1 to {LARGEST}")),
        };
        let num_attention_heads = size("num_attention_heads", file.num_attention_heads)?;
        let config = Self {
            vocab_size: size("vocab_size", file.vocab_size)?,
            hidden_size: size("hidden_size", file.hidden_size)?,
            intermediate_size: size("intermediate_size", file.intermediate_size)?,
            num_hidden_layers: size("num_hidden_layers", file.num_hidden_layers)?,
            num_attention_heads,
            num_key_value_heads: size(
                "num_key_value_heads",
                file.num_key_value_heads.or(Some(num_attention_heads)),
            )?,
            head_dim: size("head_dim", file.head_dim.or(Some(DEFAULT_HEAD_DIM)))?,
            rms_norm_eps: file.rms_norm_eps.unwrap_or(DEFAULT_EPS),
            // transformers 5 prefers `rope_parameters` if a file has both.
            rope_theta: rope.rope_theta.or(file.rope_theta).unwrap_or(DEFAULT_THETA),
            attention_bias: file.attention_bias,
        };
        config.fault().map_or(Ok(config), Err)
    }

    fn fault(&self) -> Option<String> {
        let (heads, shared) = (self.num_attention_heads, self.num_key_value_heads);
        if !heads.is_multiple_of(shared) {
            Some(format!("num_attention_heads is {heads}, not a multiple of num_key_value_heads = {shared}"))
        } else if !self.head_dim.is_multiple_of(2) {
            Some(format!("head_dim is {}, expected an even number", self.head_dim))
        } else if let Some(fault) = small_number_fault("rms_norm_eps", self.rms_norm_eps) {
            Some(fault)
        } else if !(self.rope_theta.is_finite() && self.rope_theta > 0.0) {
            Some(format!("rope_theta is {}, expected a positive number", self.rope_theta))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(changes: &[(&str, &str)]) -> Result<Qwen3Config, CheckpointError> {
        let mut json = serde_json::json!({
            "model_type": "qwen3", "vocab_size": 151_936, "hidden_size": 2560, "intermediate_size": 9728,
            "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_act": "silu",
            "rope_scaling": null, "sliding_window": null, "use_sliding_window": false
        });
        for (key, value) in changes {
            json[key] = serde_json::from_str(value).expect("json");
        }
        let root = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(root.path().join("config.json"), json.to_string()).expect("can be written");
        Qwen3Config::read(&Folder::open(root.path()).expect("exists"))
    }

    #[test]
    fn reads_what_transformers_writes() {
        let config = read(&[]).expect("a valid file");
        assert_eq!((config.head_dim, config.inner_dim(), config.key_value_dim()), (128, 4096, 1024));
        let new = ("rope_parameters", r#"{"rope_theta": 5e6, "rope_type": "default"}"#);
        for (changes, theta) in [
            (&[][..], 1e4),
            (&[("rope_theta", "1000000")], 1e6),
            (&[new], 5e6),
            (&[new, ("rope_theta", "1e6")], 5e6),
            (&[("rope_parameters", r#"{"rope_type": "default"}"#), ("rope_theta", "1e6")], 1e6),
        ] {
            let read = read(changes).expect("a valid file").rope_theta;
            assert!((read - theta).abs() < 1e-9, "{changes:?}: {read}");
        }
        let alone = read(&[("num_key_value_heads", "null")]).expect("a valid file");
        assert_eq!(alone.num_key_value_heads, 32);
    }

    #[test]
    fn names_what_is_wrong() {
        for (key, value, part) in [
            ("model_type", "\"qwen2\"", "describes \"qwen2\", expected \"qwen3 as model_type"),
            ("hidden_size", "null", "hidden_size is missing"),
            ("num_hidden_layers", "0", "num_hidden_layers is 0, expected 1 to"),
            (
                "num_key_value_heads",
                "5",
                "num_attention_heads is 32, not a multiple of num_key_value_heads = 5",
            ),
            ("head_dim", "7", "head_dim is 7, expected an even number"),
            ("hidden_act", "\"gelu\"", "hidden_act is \"gelu\", supported is \"silu\""),
            ("use_sliding_window", "true", "use_sliding_window is true"),
            ("rms_norm_eps", "0", "rms_norm_eps is 0"),
            ("rope_theta", "-1", "rope_theta is -1"),
            ("rope_scaling", r#"{"type": "yarn"}"#, "rope_type in rope_scaling is \"yarn\""),
            ("rope_parameters", r#"{"rope_type": "linear"}"#, "rope_type in rope_parameters is \"linear\""),
            ("vocab_size", "1.5", "cannot parse"),
        ] {
            let message = read(&[(key, value)]).expect_err(key).to_string();
            assert!(message.contains(part) && message.contains("config.json"), "{key}: {message}");
        }
    }
}

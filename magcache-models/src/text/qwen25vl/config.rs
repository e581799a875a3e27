//! `config.json` of a Qwen2.5-VL model.

use serde::Deserialize;

use crate::{
    checkpoint::{
        CheckpointError, Folder, Weights,
        config::{ModelType, small_number_fault},
    },
    text::causal::CausalSizes,
};

/// Sizes of a Qwen2.5-VL model, with the field names of transformers.
///
/// Made by [`Qwen25VlConfig::read`], which checks every value.
#[derive(Clone, Debug, PartialEq)]
pub struct Qwen25VlConfig {
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Channels of the hidden states.
    pub hidden_size: usize,
    /// Hidden channels of the feed-forward layers.
    pub intermediate_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Heads of the queries.
    pub num_attention_heads: usize,
    /// Heads of the keys and the values, each of which serves the same number of query heads.
    pub num_key_value_heads: usize,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f64,
    /// Base of the rotary angles.
    pub rope_theta: f64,
    /// Pairs of channels that turn by the frame, the row and the column of a token.
    pub mrope_section: [usize; 3],
    /// The token in whose place a picture's are read.
    pub image_token_id: u32,
    /// The part that sees pictures.
    pub vision: VisionConfig,
}

/// Sizes of the vision tower, with the field names of transformers.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct VisionConfig {
    /// Blocks.
    pub depth: usize,
    /// Channels of the hidden states.
    pub hidden_size: usize,
    /// Hidden channels of the feed-forward layers.
    pub intermediate_size: usize,
    /// Heads.
    pub num_heads: usize,
    /// Channels of a picture.
    #[serde(alias = "in_chans")]
    pub in_channels: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Side of the squares of patches that become one token.
    pub spatial_merge_size: usize,
    /// Frames of a patch; a picture is shown as often.
    pub temporal_patch_size: usize,
    /// Side of a window in pixels.
    pub window_size: usize,
    /// Channels of the tokens.
    pub out_hidden_size: usize,
    /// Blocks in which all patches of a picture attend to each other; in the others, those of a window.
    pub fullatt_block_indexes: Vec<usize>,
    /// Activation of the feed-forward layers.
    pub hidden_act: String,
}

/// The published 7B.
impl Default for VisionConfig {
    fn default() -> Self {
        Self {
            depth: 32,
            hidden_size: 1280,
            intermediate_size: 3420,
            num_heads: 16,
            in_channels: 3,
            patch_size: 14,
            spatial_merge_size: 2,
            temporal_patch_size: 2,
            window_size: 112,
            out_hidden_size: 3584,
            fullatt_block_indexes: vec![7, 15, 23, 31],
            hidden_act: "silu".to_owned(),
        }
    }
}

/// The published 7B.
impl Default for Qwen25VlConfig {
    fn default() -> Self {
        Self {
            vocab_size: 152_064,
            hidden_size: 3584,
            intermediate_size: 18_944,
            num_hidden_layers: 28,
            num_attention_heads: 28,
            num_key_value_heads: 4,
            rms_norm_eps: 1e-6,
            rope_theta: 1e6,
            mrope_section: [16, 24, 24],
            image_token_id: IMAGE_TOKEN,
            vision: VisionConfig::default(),
        }
    }
}

/// `<|image_pad|>` of the published tokenizer.
const IMAGE_TOKEN: u32 = 151_655;

/// The file as written: the language model's keys are at the top, or, by transformers 5, in `text_config`.
#[derive(Deserialize)]
struct File {
    text_config: Option<Text>,
    vision_config: Option<VisionConfig>,
    image_token_id: Option<u32>,
    #[serde(flatten)]
    top: Text,
}

#[derive(Deserialize)]
struct Text {
    vocab_size: Option<usize>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    hidden_act: Option<String>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<Rope>,
    rope_parameters: Option<Rope>,
    #[serde(default)]
    use_sliding_window: bool,
}

#[derive(Deserialize)]
struct Rope {
    rope_theta: Option<f64>,
    mrope_section: Option<[usize; 3]>,
}

/// Far above any model, low enough that no product of two sizes overflows.
const LARGEST: usize = 1 << 24;

impl Qwen25VlConfig {
    /// Reads and checks `config.json` of a `text_encoder` folder.
    ///
    /// # Errors
    /// [`CheckpointError::WrongArchitecture`] when `model_type` is not `qwen2_5_vl`,
    /// [`CheckpointError::Json`] for a value of another type, [`CheckpointError::BadConfig`] when a size is
    /// missing or a value is not supported.
    pub fn read(folder: &Folder) -> Result<Self, CheckpointError> {
        const FILE: &str = "config.json";
        let place = folder.describe_file(FILE);
        folder.read_json::<ModelType>(FILE)?.check(&["qwen2_5_vl"], &place)?;
        let file: File = folder.read_json(FILE)?;
        Self::from_file(file).map_err(|reason| CheckpointError::BadConfig { file: place, reason })
    }

    /// The sizes of the model with these tensors, by the names of the hub; what no tensor says is as in the
    /// published one, such as the channels of a head.
    ///
    /// # Errors
    /// A tensor that is missing, or sizes that do not fit together.
    pub fn of_weights(weights: &Weights) -> Result<Self, CheckpointError> {
        let published = Self::default();
        let [vocab_size, hidden_size] = weights.axes("model.embed_tokens.weight")?;
        let [intermediate_size, _] = weights.axes("model.layers.0.mlp.gate_proj.weight")?;
        let [shared, _] = weights.axes("model.layers.0.self_attn.k_proj.weight")?;
        let config = Self {
            vocab_size,
            hidden_size,
            intermediate_size,
            num_hidden_layers: weights.count("model.layers"),
            num_attention_heads: (hidden_size / published.head_dim()).max(1),
            num_key_value_heads: (shared / published.head_dim()).max(1),
            vision: VisionConfig::of_weights(weights, hidden_size)?,
            ..published
        };
        let fault = config.fault().or_else(|| config.vision.fault(hidden_size));
        fault.map_or(Ok(config), |reason| Err(CheckpointError::BadConfig { file: weights.place(), reason }))
    }

    /// Channels of a head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// The sizes of the language model's blocks.
    pub(super) fn block(&self) -> CausalSizes {
        CausalSizes {
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_key_value_heads,
            head_dim: self.head_dim(),
            rms_norm_eps: self.rms_norm_eps,
            bias: [true, false],
            qk_norm: false,
        }
    }

    fn from_file(file: File) -> Result<Self, String> {
        let published = Self::default();
        let File { text_config, vision_config, image_token_id, top } = file;
        let text = text_config.unwrap_or(top);
        let size = |key: &str, size: Option<usize>| match size {
            None => Err(format!("{key} is missing")),
            Some(size) if (1..=LARGEST).contains(&size) => Ok(size),
            Some(size) => Err(format!("{key} is {size}, expected 1 to {LARGEST}")),
        };
        if text.use_sliding_window {
            return Err("use_sliding_window is true, supported is false".into());
        }
        let act = text.hidden_act.as_deref().unwrap_or("silu");
        let ropes = [&text.rope_parameters, &text.rope_scaling];
        let rope = |of: fn(&Rope) -> Option<f64>| ropes.into_iter().flatten().find_map(of);
        let section = ropes.into_iter().flatten().find_map(|rope| rope.mrope_section);
        let config = Self {
            vocab_size: size("vocab_size", text.vocab_size)?,
            hidden_size: size("hidden_size", text.hidden_size)?,
            intermediate_size: size("intermediate_size", text.intermediate_size)?,
            num_hidden_layers: size("num_hidden_layers", text.num_hidden_layers)?,
            num_attention_heads: size("num_attention_heads", text.num_attention_heads)?,
            num_key_value_heads: size("num_key_value_heads", text.num_key_value_heads)?,
            rms_norm_eps: text.rms_norm_eps.unwrap_or(published.rms_norm_eps),
            rope_theta: rope(|rope| rope.rope_theta).or(text.rope_theta).unwrap_or(published.rope_theta),
            mrope_section: section.unwrap_or(published.mrope_section),
            image_token_id: image_token_id.unwrap_or(published.image_token_id),
            vision: vision_config.unwrap_or_default(),
        };
        for (key, act) in [("hidden_act", act), ("vision_config.hidden_act", &config.vision.hidden_act)] {
            if act != "silu" {
                return Err(format!("{key} is \"{act}\", supported is \"silu\""));
            }
        }
        config.fault().or_else(|| config.vision.fault(config.hidden_size)).map_or(Ok(config), Err)
    }

    fn fault(&self) -> Option<String> {
        let (heads, shared) = (self.num_attention_heads, self.num_key_value_heads);
        let pairs: usize = self.mrope_section.iter().sum();
        if !heads.is_multiple_of(shared) {
            Some(format!("num_attention_heads is {heads}, not a multiple of num_key_value_heads = {shared}"))
        } else if !self.hidden_size.is_multiple_of(2 * heads) {
            Some(format!("hidden_size is {}, expected a multiple of {}", self.hidden_size, 2 * heads))
        } else if 2 * pairs != self.head_dim() {
            let (section, dim) = (self.mrope_section, self.head_dim());
            Some(format!("mrope_section is {section:?}, expected numbers that add up to {}", dim / 2))
        } else if let Some(fault) = small_number_fault("rms_norm_eps", self.rms_norm_eps) {
            Some(fault)
        } else if !(self.rope_theta.is_finite() && self.rope_theta > 0.0) {
            Some(format!("rope_theta is {}, expected a positive number", self.rope_theta))
        } else {
            None
        }
    }
}

impl VisionConfig {
    /// Side of the square of pixels that becomes one token.
    pub fn token_side(&self) -> usize {
        self.patch_size * self.spatial_merge_size
    }

    /// The sizes of the tower with these tensors, beside a language model of this width; those of the
    /// published one where there is none.
    fn of_weights(weights: &Weights, width: usize) -> Result<Self, CheckpointError> {
        const PATCHES: &str = "visual.patch_embed.proj.weight";
        let published = Self { out_hidden_size: width, ..Self::default() };
        if !weights.contains(PATCHES) {
            return Ok(published);
        }
        let [hidden_size, in_channels, temporal_patch_size, patch_size, _] = weights.axes(PATCHES)?;
        let [intermediate_size, _] = weights.axes("visual.blocks.0.mlp.gate_proj.weight")?;
        let head_dim = published.hidden_size / published.num_heads;
        Ok(Self {
            depth: weights.count("visual.blocks"),
            num_heads: (hidden_size / head_dim).max(1),
            hidden_size,
            intermediate_size,
            in_channels,
            patch_size,
            temporal_patch_size,
            ..published
        })
    }

    /// Channels of a patch.
    pub(super) fn patch_channels(&self) -> usize {
        self.in_channels * self.temporal_patch_size * self.patch_size.pow(2)
    }

    /// What is wrong, beside a language model of this width.
    fn fault(&self, width: usize) -> Option<String> {
        let sizes = [
            ("depth", self.depth),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_heads", self.num_heads),
            ("in_channels", self.in_channels),
            ("patch_size", self.patch_size),
            ("spatial_merge_size", self.spatial_merge_size),
            ("temporal_patch_size", self.temporal_patch_size),
            ("window_size", self.window_size),
        ];
        if let Some((key, size)) = sizes.into_iter().find(|(_, size)| !(1..=1 << 20).contains(size)) {
            return Some(format!("vision_config.{key} is {size}"));
        }
        if self.in_channels != 3 {
            return Some(format!("vision_config.in_channels is {}, pictures have 3", self.in_channels));
        }
        if self.out_hidden_size != width {
            return Some(format!(
                "vision_config.out_hidden_size is {}, hidden_size {width}",
                self.out_hidden_size
            ));
        }
        if !self.hidden_size.is_multiple_of(4 * self.num_heads) {
            let (size, heads) = (self.hidden_size, self.num_heads);
            return Some(format!("vision_config.hidden_size is {size}, expected a multiple of 4 * {heads}"));
        }
        let window = self.window_size;
        (window < self.token_side()).then(|| {
            format!("vision_config.window_size is {window}, a token has {} pixels", self.token_side())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(changes: &[(&str, &str)]) -> Result<Qwen25VlConfig, CheckpointError> {
        let mut json = serde_json::json!({
            "model_type": "qwen2_5_vl", "vocab_size": 152_064, "hidden_size": 3584, "intermediate_size": 18_944,
            "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "hidden_act": "silu",
            "rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
            "vision_config": {"depth": 32, "in_chans": 3, "spatial_patch_size": 14, "tokens_per_second": 2}
        });
        for (key, value) in changes {
            json[key] = serde_json::from_str(value).expect("json");
        }
        let root = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(root.path().join("config.json"), json.to_string()).expect("can be written");
        Qwen25VlConfig::read(&Folder::open(root.path()).expect("exists"))
    }

    #[test]
    fn reads_what_transformers_writes() {
        assert_eq!(read(&[]).expect("a valid file"), Qwen25VlConfig::default());
        let nested = r#"{"vocab_size": 9, "hidden_size": 3584, "intermediate_size": 7, "num_hidden_layers": 2,
            "num_attention_heads": 28, "num_key_value_heads": 28,
            "rope_parameters": {"rope_theta": 5.0, "mrope_section": [24, 20, 20]}}"#;
        let config = read(&[("text_config", nested)]).expect("a valid file");
        assert_eq!((config.vocab_size, config.mrope_section), (9, [24, 20, 20]));
        assert!((config.rope_theta - 5.0).abs() < 1e-9);
    }

    #[test]
    fn names_what_is_wrong() {
        for (key, value, part) in [
            ("model_type", "\"qwen2\"", "describes \"qwen2\", expected \"qwen2_5_vl as model_type"),
            ("hidden_size", "null", "hidden_size is missing"),
            ("num_key_value_heads", "5", "not a multiple of num_key_value_heads = 5"),
            ("rope_scaling", r#"{"mrope_section": [16, 24, 23]}"#, "mrope_section is [16, 24, 23], expected"),
            ("hidden_act", "\"gelu\"", "hidden_act is \"gelu\", supported is \"silu\""),
            ("use_sliding_window", "true", "use_sliding_window is true"),
            ("vision_config", r#"{"depth": 0}"#, "vision_config.depth is 0"),
            ("vision_config", r#"{"out_hidden_size": 7}"#, "out_hidden_size is 7, hidden_size 3584"),
            ("vision_config", r#"{"window_size": 27}"#, "window_size is 27, a token has 28 pixels"),
            ("vocab_size", "1.5", "cannot parse"),
        ] {
            let message = read(&[(key, value)]).expect_err(key).to_string();
            assert!(message.contains(part) && message.contains("config.json"), "{key}: {message}");
        }
    }
}

//! `config.json` of a CLIP vision encoder, and what text encoders share with it.

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::checkpoint::{
    CheckpointError, Folder,
    config::{ModelType, small_number_fault, without_fault},
};

/// The function between the two linear layers of a block, `hidden_act` in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Activation {
    /// Exact GELU, `gelu`: the encoder of Wan.
    Gelu,
    /// `x * sigmoid(1.702 x)`, `quick_gelu`: the encoders that `OpenAI` published.
    QuickGelu,
}

impl TryFrom<String> for Activation {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match name.as_str() {
            "gelu" => Ok(Self::Gelu),
            "quick_gelu" => Ok(Self::QuickGelu),
            _ => Err(format!("hidden_act is \"{name}\", supported are \"gelu\" and \"quick_gelu\"")),
        }
    }
}

/// Sizes of a CLIP vision encoder, with the field names and the defaults of transformers.
///
/// Made by [`ClipVisionConfig::read`], which checks every value.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct ClipVisionConfig {
    /// Channels of the hidden states.
    pub hidden_size: usize,
    /// Hidden channels of the feed-forward layers.
    pub intermediate_size: usize,
    /// Blocks of the whole encoder; the hidden states used here leave out the last.
    pub num_hidden_layers: usize,
    /// Attention heads of every block.
    pub num_attention_heads: usize,
    /// Channels of the picture.
    pub num_channels: usize,
    /// Columns and rows of the picture.
    pub image_size: usize,
    /// Columns and rows of a patch; pixels at the right and the bottom that do not fill one are not seen.
    pub patch_size: usize,
    /// Function between the feed-forward layers.
    pub hidden_act: Activation,
    /// Added to the variance in every norm.
    pub layer_norm_eps: f64,
}

impl Default for ClipVisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
        }
    }
}

const MODEL_TYPE: &str = "clip_vision_model";

/// Far above any model, low enough that no product of two sizes overflows.
pub(super) const LARGEST: usize = 1 << 20;

/// Parses a `config.json` with the expected `model_type`; messages call it `place`.
pub(super) fn parse<T: DeserializeOwned>(
    value: &Value,
    model_type: &str,
    place: &str,
) -> Result<T, CheckpointError> {
    let json = |source| CheckpointError::Json { file: place.to_owned(), source };
    ModelType::deserialize(value).map_err(json)?.check(&[model_type], place)?;
    T::deserialize(value).map_err(json)
}

/// The first fault in the sizes that every encoder has, if any.
pub(super) fn size_fault(sizes: &[(&str, usize)], hidden_size: usize, heads: usize) -> Option<String> {
    if let Some((key, size)) = sizes.iter().find(|(_, size)| !(1..=LARGEST).contains(size)) {
        Some(format!("{key} is {size}, expected 1 to {LARGEST}"))
    } else if !hidden_size.is_multiple_of(heads) {
        Some(format!("hidden_size is {hidden_size}, not a multiple of num_attention_heads = {heads}"))
    } else {
        None
    }
}

impl ClipVisionConfig {
    /// Reads and checks `config.json` of an `image_encoder` folder.
    ///
    /// # Errors
    /// [`CheckpointError::WrongArchitecture`] when `model_type` is not `clip_vision_model`,
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

    /// Patches per row or column.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size.max(1)
    }

    /// Tokens of a picture: one for the whole, then one per patch.
    pub fn tokens(&self) -> usize {
        self.grid() * self.grid() + 1
    }

    fn fault(&self) -> Option<String> {
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("image_size", self.image_size),
            ("patch_size", self.patch_size),
        ];
        if let Some(reason) = size_fault(&sizes, self.hidden_size, self.num_attention_heads) {
            Some(reason)
        } else if self.num_channels != 3 {
            Some(format!("num_channels is {}, supported is 3 (red, green and blue)", self.num_channels))
        } else if self.patch_size > self.image_size {
            Some(format!("patch_size is {}, image_size only {}", self.patch_size, self.image_size))
        } else {
            small_number_fault("layer_norm_eps", self.layer_norm_eps)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clip::ClipTextConfig;

    /// A file as transformers writes it, with one change `key=value`.
    fn file(mut json: Value, change: &str) -> Value {
        let (key, value) = change.split_once('=').expect("key=value");
        json[key] = serde_json::from_str(value).expect("json");
        json
    }

    fn vision(change: &str) -> Result<ClipVisionConfig, CheckpointError> {
        let json = serde_json::json!({
            "model_type": "clip_vision_model", "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
            "num_attention_heads": 16, "image_size": 224, "patch_size": 14, "hidden_act": "gelu",
            "layer_norm_eps": 1e-05, "projection_dim": 1024, "dropout": 0.0
        });
        let root = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(root.path().join("config.json"), file(json, change).to_string())
            .expect("can be written");
        ClipVisionConfig::read(&Folder::open(root.path()).expect("exists"))
    }

    fn text(change: &str) -> Result<ClipTextConfig, CheckpointError> {
        let json = serde_json::json!({
            "model_type": "clip_text_model", "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072,
            "num_hidden_layers": 12, "num_attention_heads": 12, "max_position_embeddings": 77,
            "hidden_act": "quick_gelu", "layer_norm_eps": 1e-05, "bos_token_id": 0, "eos_token_id": 2, "projection_dim": 768
        });
        ClipTextConfig::from_value(&file(json, change), "config.json")
    }

    #[test]
    fn reads_what_transformers_writes() {
        let config = vision("projection_dim=512").expect("a valid file");
        assert_eq!((config.tokens(), config.hidden_act), (257, Activation::Gelu));
        let config = vision("hidden_act=\"quick_gelu\"").expect("a valid file");
        assert_eq!(config.hidden_act, Activation::QuickGelu);
        let config = text("projection_dim=512").expect("a valid file");
        assert_eq!((config.hidden_act, config.eos_token_id), (Activation::QuickGelu, 2));
        assert_eq!(text("hidden_act=\"gelu\"").expect("a valid file").hidden_act, Activation::Gelu);
        let bare = serde_json::json!({ "model_type": "clip_text_model" });
        let defaults = ClipTextConfig::from_value(&bare, "config.json").expect("all of them are known");
        assert_eq!(defaults, ClipTextConfig::default());
    }

    #[test]
    fn names_what_is_wrong() {
        let of_vision = |change| vision(change).expect_err(change);
        let of_text = |change| text(change).expect_err(change);
        for (error, part) in [
            (of_vision("model_type=\"siglip\""), "\"siglip\", expected \"clip_vision_model"),
            (of_vision("model_type=null"), "expected \"clip_vision_model"),
            (of_vision("num_hidden_layers=0"), "num_hidden_layers is 0, expected 1 to"),
            (of_vision("intermediate_size=99999999999"), "intermediate_size is 99999999999"),
            (of_vision("num_channels=4"), "num_channels is 4, supported is 3"),
            (
                of_vision("num_attention_heads=7"),
                "hidden_size is 1280, not a multiple of num_attention_heads = 7",
            ),
            (of_vision("patch_size=225"), "patch_size is 225, image_size only 224"),
            (of_vision("layer_norm_eps=0"), "layer_norm_eps is 0"),
            (of_vision("hidden_size=1.5"), "cannot parse"),
            (
                of_text("model_type=\"clip_vision_model\""),
                "\"clip_vision_model\", expected \"clip_text_model",
            ),
            (of_text("num_hidden_layers=0"), "num_hidden_layers is 0, expected 1 to"),
            (of_text("vocab_size=99999999999"), "vocab_size is 99999999999"),
            (of_text("max_position_embeddings=0"), "max_position_embeddings is 0"),
            (
                of_text("num_attention_heads=7"),
                "hidden_size is 768, not a multiple of num_attention_heads = 7",
            ),
            (of_text("eos_token_id=49408"), "eos_token_id is 49408, vocab_size is 49408"),
            (of_text("eos_token_id=[2]"), "cannot parse"),
            (of_text("layer_norm_eps=-1"), "layer_norm_eps is -1"),
            (of_text("hidden_act=\"relu\""), "cannot parse"),
        ] {
            let message = error.to_string();
            assert!(message.contains(part) && message.contains("config.json"), "{part}: {message}");
        }
        let error = of_vision("hidden_act=\"gelu_fast\"");
        let CheckpointError::Json { source, .. } = error else { panic!("{error}") };
        assert!(
            source.to_string().contains("hidden_act is \"gelu_fast\", supported are \"gelu\""),
            "{source}"
        );
    }
}

//! `config.json` of a T5 or UMT5 encoder.

use serde::Deserialize;

use crate::checkpoint::{
    CheckpointError, Folder,
    config::{ModelType, small_number_fault, without_fault},
};

/// Which of the two related models a checkpoint holds. They differ only in their relative position tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum T5Variant {
    /// All blocks use the first block's table.
    T5,
    /// Every block has a table of its own.
    Umt5,
}

/// Sizes of a T5 v1.1 or UMT5 encoder, with the field names of transformers.
///
/// Made by [`T5Config::read`], which checks every value.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct T5Config {
    /// T5 or UMT5, `model_type` in the file.
    #[serde(rename = "model_type")]
    pub variant: T5Variant,
    /// Rows of the embedding table; in the published models more than the tokenizer has tokens.
    pub vocab_size: usize,
    /// Channels of the hidden states.
    pub d_model: usize,
    /// Channels of one attention head.
    pub d_kv: usize,
    /// Hidden channels of the feed-forward layers.
    pub d_ff: usize,
    /// Blocks of the encoder.
    pub num_layers: usize,
    /// Attention heads of every block. `num_heads * d_kv` need not be `d_model`.
    pub num_heads: usize,
    /// Rows of a relative position table, half of them for keys after the query.
    #[serde(default = "default_buckets")]
    pub relative_attention_num_buckets: usize,
    /// Distance in tokens from which on all positions share a row.
    #[serde(default = "default_distance")]
    pub relative_attention_max_distance: usize,
    /// Added to the mean square in every norm.
    #[serde(default = "default_eps")]
    pub layer_norm_epsilon: f64,
    /// Always `gated-gelu`, the feed-forward layer of T5 v1.1 with its tanh approximation of GELU.
    #[serde(default = "default_feed_forward")]
    pub feed_forward_proj: String,
}

impl T5Config {
    /// Reads and checks `config.json` of a `text_encoder` folder.
    ///
    /// # Errors
    /// [`CheckpointError::WrongArchitecture`] when `model_type` is neither `t5` nor `umt5`,
    /// [`CheckpointError::Json`] when a size is missing, [`CheckpointError::BadConfig`] for values that no
    /// encoder can be built with.
    pub fn read(folder: &Folder) -> Result<Self, CheckpointError> {
        const FILE: &str = "config.json";
        let place = folder.describe_file(FILE);
        folder.read_json::<ModelType>(FILE)?.check(&["umt5", "t5"], &place)?;
        folder.read_json::<Self>(FILE)?.checked(&place)
    }

    /// From the keys of a `config.json` assembled elsewhere; messages call it `place`.
    pub(crate) fn from_value(keys: serde_json::Value, place: &str) -> Result<Self, CheckpointError> {
        let config: Self = serde_json::from_value(keys)
            .map_err(|source| CheckpointError::Json { file: place.to_owned(), source })?;
        config.checked(place)
    }

    fn checked(self, place: &str) -> Result<Self, CheckpointError> {
        let fault = self.fault();
        without_fault(self, fault, place)
    }

    /// Channels of queries, keys and values: heads times channels per head.
    pub fn inner_dim(&self) -> usize {
        self.num_heads * self.d_kv
    }

    fn fault(&self) -> Option<String> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("d_model", self.d_model),
            ("d_kv", self.d_kv),
            ("d_ff", self.d_ff),
            ("num_layers", self.num_layers),
            ("num_heads", self.num_heads),
        ];
        let (buckets, distance) = (self.relative_attention_num_buckets, self.relative_attention_max_distance);
        if let Some((key, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            Some(format!("{key} is 0, expected at least 1"))
        } else if let Some((key, size)) = sizes.into_iter().find(|(_, size)| *size > LARGEST) {
            Some(format!("{key} is {size}, expected at most {LARGEST}"))
        } else if !(4..=LARGEST).contains(&buckets) {
            Some(format!("relative_attention_num_buckets is {buckets}, expected 4 to {LARGEST}"))
        } else if distance <= buckets / 4 {
            // The rows for single distances take up a quarter of the buckets; the others must lie beyond.
            let least = buckets / 4 + 1;
            Some(format!(
                "relative_attention_max_distance is {distance}, expected at least {least} for {buckets} buckets"
            ))
        } else if let Some(fault) = small_number_fault("layer_norm_epsilon", self.layer_norm_epsilon) {
            Some(fault)
        } else if self.feed_forward_proj != GATED_GELU {
            Some(format!(
                "feed_forward_proj is \"{}\", supported is \"{GATED_GELU}\"",
                self.feed_forward_proj
            ))
        } else {
            None
        }
    }
}

const GATED_GELU: &str = "gated-gelu";

/// Far above any model, low enough that no product of two sizes overflows.
const LARGEST: usize = 1 << 24;

fn default_buckets() -> usize {
    32
}

fn default_distance() -> usize {
    128
}

fn default_eps() -> f64 {
    1e-6
}

// The default of transformers: the ReLU of the first T5.
fn default_feed_forward() -> String {
    "relu".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(change: &str) -> Result<T5Config, CheckpointError> {
        let (key, value) = change.split_once('=').expect("key=value");
        let mut json = serde_json::json!({
            "model_type": "umt5", "vocab_size": 32, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4,
            "feed_forward_proj": "gated-gelu", "is_gated_act": true, "dropout_rate": 0.1
        });
        json[key] = serde_json::from_str(value).expect("json");
        let root = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(root.path().join("config.json"), json.to_string()).expect("can be written");
        T5Config::read(&Folder::open(root.path()).expect("exists"))
    }

    #[test]
    fn reads_what_transformers_writes() {
        let config = read("num_heads=5").expect("a valid file");
        assert_eq!((config.variant, config.inner_dim()), (T5Variant::Umt5, 80));
        assert_eq!(
            (config.relative_attention_num_buckets, config.relative_attention_max_distance),
            (32, 128)
        );
        assert_eq!(read("model_type=\"t5\"").expect("a valid file").variant, T5Variant::T5);
    }

    #[test]
    fn names_what_is_wrong() {
        for (change, part) in [
            ("model_type=\"clip_text_model\"", "describes \"clip_text_model\", expected \"umt5 or t5"),
            ("model_type=null", "expected \"umt5 or t5"),
            ("num_layers=0", "num_layers is 0"),
            ("d_model=1e3", "cannot parse"),
            ("d_ff=99999999999", "d_ff is 99999999999"),
            ("relative_attention_num_buckets=3", "num_buckets is 3"),
            ("relative_attention_max_distance=8", "max_distance is 8, expected at least 9 for 32 buckets"),
            ("layer_norm_epsilon=0", "layer_norm_epsilon is 0"),
            ("feed_forward_proj=\"relu\"", "feed_forward_proj is \"relu\", supported is \"gated-gelu\""),
        ] {
            let message = read(change).expect_err(change).to_string();
            assert!(message.contains(part) && message.contains("config.json"), "{change}: {message}");
        }
    }
}

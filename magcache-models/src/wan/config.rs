//! `config.json` of a diffusers `WanTransformer3DModel` folder.

use serde::{Deserialize, Serialize};

use crate::checkpoint::{
    ConfigError,
    config::{self, wrong},
};

/// The class name that diffusers writes for the models this module implements.
pub(super) const CLASS_NAME: &str = "WanTransformer3DModel";

/// Keys that appear in published files although the network does not read them.
const UNUSED: [&str; 3] = ["add_img_emb", "window_size", "model_type"];

/// The only normalisation of queries and keys that Wan was ever trained with.
const QK_NORM: &str = "rms_norm_across_heads";

/// Sizes of a Wan transformer, with the field names and defaults of diffusers 0.42.1.
///
/// Every value has been checked: [`WanConfig::from_json`] is the only way to make one from text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WanConfig {
    /// Latent frames, rows and columns that make one token.
    pub patch_size: [usize; 3],
    /// Attention heads of every block.
    pub num_attention_heads: usize,
    /// Channels of one head; even, because rotary embeddings rotate pairs.
    pub attention_head_dim: usize,
    /// Channels of the model's input: 16 for text to video, 36 with mask and condition latents.
    pub in_channels: usize,
    /// Channels of the prediction; `in_channels` if the file says null.
    #[serde(deserialize_with = "config::null_is_zero")]
    pub out_channels: usize,
    /// Channels of the text encoder's output.
    pub text_dim: usize,
    /// Length of the sinusoidal embedding of a timestep; even.
    pub freq_dim: usize,
    /// Hidden channels of the feed-forward layers.
    pub ffn_dim: usize,
    /// Transformer blocks.
    pub num_layers: usize,
    /// Whether cross-attention reads layer-normalised hidden states (`norm2`).
    pub cross_attn_norm: bool,
    /// Always `rms_norm_across_heads`.
    pub qk_norm: String,
    /// Added to the variance in every norm of the blocks and of the head.
    pub eps: f64,
    /// Channels of the image encoder's output, for models that attend to image embeddings.
    pub image_dim: Option<usize>,
    /// Input channels of `add_k_proj` and `add_v_proj`; present if and only if `image_dim` is.
    pub added_kv_proj_dim: Option<usize>,
    /// Positions that the rotary tables cover on each axis.
    pub rope_max_seq_len: usize,
    /// Image tokens of the first and last frame together, for models with a learned position on them (FLF2V).
    pub pos_embed_seq_len: Option<usize>,
}

impl Default for WanConfig {
    fn default() -> Self {
        Self {
            patch_size: [1, 2, 2],
            num_attention_heads: 40,
            attention_head_dim: 128,
            in_channels: 16,
            out_channels: 16,
            text_dim: 4096,
            freq_dim: 256,
            ffn_dim: 13824,
            num_layers: 40,
            cross_attn_norm: true,
            qk_norm: QK_NORM.into(),
            eps: 1e-6,
            image_dim: None,
            added_kv_proj_dim: None,
            rope_max_seq_len: 1024,
            pos_embed_seq_len: None,
        }
    }
}

impl WanConfig {
    /// Reads and checks the text of a `config.json`.
    ///
    /// Keys that start with `_` are ignored, as are a few meaningless ones in published files; any other
    /// unknown key is an error, because it may stand for a part of the network that would be left out
    /// silently.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let mut config: Self = config::read(text, CLASS_NAME, "Wan", &UNUSED)?;
        if config.out_channels == 0 {
            config.out_channels = config.in_channels;
        }
        config.validate()?;
        Ok(config)
    }

    /// Channels of the hidden states: heads times channels per head.
    pub fn inner_dim(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }

    /// Values in one patch of one channel.
    pub fn patch_volume(&self) -> usize {
        self.patch_size.iter().product()
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let positive = [
            ("num_attention_heads", self.num_attention_heads),
            ("attention_head_dim", self.attention_head_dim),
            ("in_channels", self.in_channels),
            ("text_dim", self.text_dim),
            ("freq_dim", self.freq_dim),
            ("ffn_dim", self.ffn_dim),
            ("num_layers", self.num_layers),
            ("rope_max_seq_len", self.rope_max_seq_len),
        ];
        let optional = [
            ("image_dim", self.image_dim),
            ("added_kv_proj_dim", self.added_kv_proj_dim),
            ("pos_embed_seq_len", self.pos_embed_seq_len),
        ];
        let optional = optional.into_iter().filter_map(|(key, value)| Some((key, value?)));
        if let Some((key, value)) = positive.into_iter().chain(optional).find(|(_, value)| *value == 0) {
            return Err(wrong(key, &value, "expected at least 1"));
        }
        if self.patch_size.contains(&0) {
            return Err(wrong(
                "patch_size",
                &format!("{:?}", self.patch_size),
                "expected at least 1 on each axis",
            ));
        }
        for (key, value) in [("attention_head_dim", self.attention_head_dim), ("freq_dim", self.freq_dim)] {
            if value % 2 != 0 {
                return Err(wrong(key, &value, "expected an even number"));
            }
        }
        if self.qk_norm != QK_NORM {
            return Err(wrong("qk_norm", &self.qk_norm, format!("expected `{QK_NORM}`")));
        }
        if !(self.eps.is_finite() && self.eps > 0.0) {
            return Err(wrong("eps", &self.eps, "expected a small positive number"));
        }
        self.validate_image()
    }

    /// Checks that the three keys of the image branch agree with each other.
    fn validate_image(&self) -> Result<(), ConfigError> {
        let inner = self.inner_dim();
        match (self.image_dim, self.added_kv_proj_dim) {
            (Some(_), Some(added)) if added != inner => {
                Err(wrong("added_kv_proj_dim", &added, format!("expected the inner dimension {inner}")))
            }
            (Some(image), None) => {
                Err(wrong("image_dim", &image, "expected null, as `added_kv_proj_dim` is null"))
            }
            (None, Some(added)) => {
                Err(wrong("added_kv_proj_dim", &added, "expected null, as `image_dim` is null"))
            }
            (None, None) if self.pos_embed_seq_len.is_some() => Err(wrong(
                "pos_embed_seq_len",
                &self.pos_embed_seq_len.unwrap_or_default(),
                "expected null, as `image_dim` is null",
            )),
            _ => match self.pos_embed_seq_len {
                Some(tokens) if tokens % 2 != 0 => {
                    Err(wrong("pos_embed_seq_len", &tokens, "expected an even number: two frames"))
                }
                _ => Ok(()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        magcache_core::hint::told(&WanConfig::from_json(text).expect_err(text))
    }

    #[test]
    fn reads_what_diffusers_writes() {
        let text = r#"{"_class_name": "WanTransformer3DModel", "_diffusers_version": "0.42.1", "window_size": [-1, -1],
            "num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960, "out_channels": null, "in_channels": 36}"#;
        let config = WanConfig::from_json(text).expect("a valid file");
        assert_eq!((config.inner_dim(), config.num_layers, config.ffn_dim), (1536, 30, 8960));
        assert_eq!((config.in_channels, config.out_channels), (36, 36));
        let again = serde_json::to_string(&config).expect("serialises");
        assert_eq!(WanConfig::from_json(&again).expect("what we write"), config);
    }

    #[test]
    fn names_the_key_and_the_value_of_what_is_wrong() {
        for (text, parts) in [
            (
                r#"{"_class_name": "FluxTransformer2DModel"}"#,
                vec!["`FluxTransformer2DModel`", "FLUX.1 model"],
            ),
            (r#"{"_class_name": 3}"#, vec!["`3`"]),
            (r#"{"vace_layers": [0, 2]}"#, vec!["unknown key `vace_layers` = [0,2]"]),
            (r#"{"qk_norm": "layer_norm"}"#, vec!["`qk_norm` is layer_norm", "rms_norm_across_heads"]),
            (r#"{"attention_head_dim": 15}"#, vec!["`attention_head_dim` is 15", "even"]),
            (r#"{"num_layers": 0}"#, vec!["`num_layers` is 0"]),
            (r#"{"patch_size": [1, 0, 2]}"#, vec!["`patch_size` is [1, 0, 2]"]),
            (r#"{"eps": 0.0}"#, vec!["`eps` is 0"]),
            (r#"{"image_dim": 8}"#, vec!["`image_dim` is 8", "added_kv_proj_dim"]),
            (r#"{"added_kv_proj_dim": 5120}"#, vec!["`added_kv_proj_dim` is 5120", "image_dim"]),
            (r#"{"image_dim": 8, "added_kv_proj_dim": 4}"#, vec!["`added_kv_proj_dim` is 4", "5120"]),
            (r#"{"pos_embed_seq_len": 514}"#, vec!["`pos_embed_seq_len` is 514"]),
            (r#"{"num_layers": "many"}"#, vec!["many"]),
            ("[]", vec!["expected a map"]),
        ] {
            let message = error(text);
            for part in parts {
                assert!(message.contains(part), "`{message}` lacks `{part}`");
            }
        }
    }
}

//! `config.json` of a diffusers `Flux2Transformer2DModel` folder.

use serde::{Deserialize, Serialize};

use crate::{
    checkpoint::{
        ConfigError,
        config::{self, wrong},
    },
    mmdit::check_axes,
};

/// The class name that diffusers writes.
const CLASS_NAME: &str = "Flux2Transformer2DModel";

/// Sizes of a FLUX.2 transformer, with the field names and defaults of diffusers 0.42.1.
///
/// Every value has been checked: [`Flux2Config::from_json`] is the only way to make one from text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Flux2Config {
    /// Side of the square of tokens that one predicted token stands for: 1 in everything published.
    pub patch_size: usize,
    /// Channels of a token of the packed latents.
    pub in_channels: usize,
    /// Channels of the prediction; `in_channels` if the file says null or nothing.
    #[serde(default, deserialize_with = "config::null_is_zero")]
    pub out_channels: usize,
    /// Dual-stream blocks.
    pub num_layers: usize,
    /// Single-stream blocks after them.
    pub num_single_layers: usize,
    /// Channels of one head.
    pub attention_head_dim: usize,
    /// Attention heads of every block.
    pub num_attention_heads: usize,
    /// Channels of the text embeddings: several layers of the text encoder, concatenated.
    pub joint_attention_dim: usize,
    /// Length of the sinusoidal embedding of timestep and guidance; even.
    pub timestep_guidance_channels: usize,
    /// Hidden channels of the feed-forward layers, as a multiple of the width.
    pub mlp_ratio: f64,
    /// Channels of a head that each axis of a position rotates: image (by time), row, column, text token.
    pub axes_dims_rope: [usize; 4],
    /// Base of the geometric progression of rotary frequencies.
    pub rope_theta: f64,
    /// Added to the variance in every norm.
    pub eps: f64,
    /// Whether the model is guidance-distilled and takes a guidance scale.
    pub guidance_embeds: bool,
}

impl Default for Flux2Config {
    fn default() -> Self {
        Self {
            patch_size: 1,
            in_channels: 128,
            out_channels: 128,
            num_layers: 8,
            num_single_layers: 48,
            attention_head_dim: 128,
            num_attention_heads: 48,
            joint_attention_dim: 15360,
            timestep_guidance_channels: 256,
            mlp_ratio: 3.0,
            axes_dims_rope: [32; 4],
            rope_theta: 2000.0,
            eps: 1e-6,
            guidance_embeds: true,
        }
    }
}

impl Flux2Config {
    /// Reads and checks the text of a `config.json`.
    ///
    /// Keys that start with `_` are ignored; any other unknown key is an error, because it may stand for a
    /// part of the network that would be left out silently.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let mut config: Self = config::read(text, CLASS_NAME, "Flux", &[])?;
        if config.out_channels == 0 {
            config.out_channels = config.in_channels;
        }
        config.validated()
    }

    /// Channels of the hidden states: heads times channels per head.
    pub fn inner_dim(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }

    /// Hidden channels of the feed-forward layers, rounded down.
    pub fn mlp_hidden_dim(&self) -> usize {
        (self.inner_dim() as f64 * self.mlp_ratio) as usize
    }

    /// Channels of a predicted token.
    pub(super) fn outputs(&self) -> usize {
        self.patch_size * self.patch_size * self.out_channels
    }

    /// Returns the configuration if its values can be used together.
    pub(super) fn validated(self) -> Result<Self, ConfigError> {
        config::positive(&[
            ("patch_size", self.patch_size),
            ("in_channels", self.in_channels),
            ("num_layers", self.num_layers),
            ("attention_head_dim", self.attention_head_dim),
            ("num_attention_heads", self.num_attention_heads),
            ("joint_attention_dim", self.joint_attention_dim),
            ("timestep_guidance_channels", self.timestep_guidance_channels),
        ])?;
        if !self.timestep_guidance_channels.is_multiple_of(2) {
            let (key, value) = ("timestep_guidance_channels", self.timestep_guidance_channels);
            return Err(wrong(key, &value, "expected an even number"));
        }
        for (key, value) in [("rope_theta", self.rope_theta), ("eps", self.eps)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(wrong(key, &value, "expected a positive number"));
            }
        }
        if !(self.mlp_ratio.is_finite() && self.mlp_hidden_dim() > 0) {
            return Err(wrong("mlp_ratio", &self.mlp_ratio, "expected a positive number"));
        }
        check_axes(&self.axes_dims_rope, self.attention_head_dim)?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_diffusers_writes() {
        let text = r#"{"_class_name": "Flux2Transformer2DModel", "_diffusers_version": "0.42.1", "guidance_embeds": false,
            "num_attention_heads": 24, "num_layers": 5, "num_single_layers": 20, "joint_attention_dim": 7680,
            "rope_theta": 2000, "axes_dims_rope": [32, 32, 32, 32], "out_channels": null, "eps": 1e-06}"#;
        let config = Flux2Config::from_json(text).expect("a valid file");
        assert_eq!((config.inner_dim(), config.mlp_hidden_dim(), config.out_channels), (3072, 9216, 128));
        let again = serde_json::to_string(&config).expect("serialises");
        assert_eq!(Flux2Config::from_json(&again).expect("what we write"), config);
        assert_eq!(Flux2Config { mlp_ratio: 2.7, ..config }.mlp_hidden_dim(), 8294);
    }

    #[test]
    fn names_the_key_and_the_value_of_what_is_wrong() {
        for (text, parts) in [
            (r#"{"_class_name": "FluxTransformer2DModel"}"#, vec!["`FluxTransformer2DModel`", "FLUX.1"]),
            (r#"{"pooled_projection_dim": 768}"#, vec!["unknown key `pooled_projection_dim` = 768"]),
            (r#"{"num_attention_heads": 0}"#, vec!["`num_attention_heads` is 0"]),
            (r#"{"axes_dims_rope": [32, 32, 32, 30]}"#, vec!["[32, 32, 32, 30]", "128"]),
            (r#"{"timestep_guidance_channels": 255}"#, vec!["is 255", "even"]),
            (r#"{"mlp_ratio": -1.0}"#, vec!["`mlp_ratio` is -1"]),
            (r#"{"rope_theta": 0}"#, vec!["`rope_theta` is 0"]),
            (r#"{"eps": 0.0}"#, vec!["`eps` is 0"]),
        ] {
            let message = magcache_core::hint::told(&Flux2Config::from_json(text).expect_err(text));
            for part in parts {
                assert!(message.contains(part), "`{message}` lacks `{part}`");
            }
        }
    }
}

//! `config.json` of a diffusers `FluxTransformer2DModel` folder.

use serde::{Deserialize, Serialize};

use crate::{
    checkpoint::{ConfigError, config},
    mmdit::check_axes,
};

/// The class name that diffusers writes.
const CLASS_NAME: &str = "FluxTransformer2DModel";

/// Epsilon of every norm; not part of the configuration.
pub(super) const EPS: f64 = 1e-6;

/// Sizes of a FLUX.1 transformer, with the field names and defaults of diffusers 0.42.1.
///
/// Every value has been checked: [`FluxConfig::from_json`] is the only way to make one from text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FluxConfig {
    /// Side of the square of tokens that one predicted token stands for: 1 in everything published.
    pub patch_size: usize,
    /// Channels of a token of the packed latents: 64, more if an image or a mask is concatenated.
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
    /// Channels of the text encoder's output.
    pub joint_attention_dim: usize,
    /// Channels of the pooled text.
    pub pooled_projection_dim: usize,
    /// Whether the model is guidance-distilled and takes a guidance scale.
    pub guidance_embeds: bool,
    /// Channels of a head that each axis of a position rotates: index of the image, row, column.
    pub axes_dims_rope: [usize; 3],
}

impl Default for FluxConfig {
    fn default() -> Self {
        Self {
            patch_size: 1,
            in_channels: 64,
            out_channels: 64,
            num_layers: 19,
            num_single_layers: 38,
            attention_head_dim: 128,
            num_attention_heads: 24,
            joint_attention_dim: 4096,
            pooled_projection_dim: 768,
            guidance_embeds: false,
            axes_dims_rope: [16, 56, 56],
        }
    }
}

impl FluxConfig {
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
            ("pooled_projection_dim", self.pooled_projection_dim),
        ])?;
        check_axes(&self.axes_dims_rope, self.attention_head_dim)?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_diffusers_writes() {
        let text = r#"{"_class_name": "FluxTransformer2DModel", "_diffusers_version": "0.42.1", "guidance_embeds": true,
            "num_layers": 19, "num_single_layers": 38, "in_channels": 384, "out_channels": 64}"#;
        let config = FluxConfig::from_json(text).expect("a valid file");
        assert_eq!((config.inner_dim(), config.in_channels, config.out_channels), (3072, 384, 64));
        assert!(config.guidance_embeds);
        let again = serde_json::to_string(&config).expect("serialises");
        assert_eq!(FluxConfig::from_json(&again).expect("what we write"), config);
        for text in [r#"{"in_channels": 96}"#, r#"{"in_channels": 96, "out_channels": null}"#] {
            assert_eq!(FluxConfig::from_json(text).expect("a valid file").out_channels, 96, "{text}");
        }
    }

    #[test]
    fn names_the_key_and_the_value_of_what_is_wrong() {
        for (text, parts) in [
            (r#"{"_class_name": "Flux2Transformer2DModel"}"#, vec!["`Flux2Transformer2DModel`", "FLUX.2"]),
            (r#"{"_class_name": 3}"#, vec!["`3`", "FluxTransformer2DModel"]),
            (r#"{"mlp_ratio": 3.0}"#, vec!["unknown key `mlp_ratio` = 3.0"]),
            (r#"{"num_layers": 0}"#, vec!["`num_layers` is 0"]),
            (r#"{"axes_dims_rope": [16, 56, 58]}"#, vec!["[16, 56, 58]", "128"]),
            (r#"{"axes_dims_rope": [17, 55, 56]}"#, vec!["[17, 55, 56]", "even"]),
            (r#"{"axes_dims_rope": [64, 64]}"#, vec!["an array of length 3"]),
            (r#"{"num_layers": "many"}"#, vec!["many"]),
            ("[]", vec!["expected a map"]),
        ] {
            let message = magcache_core::hint::told(&FluxConfig::from_json(text).expect_err(text));
            for part in parts {
                assert!(message.contains(part), "`{message}` lacks `{part}`");
            }
        }
    }
}

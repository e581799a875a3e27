//! `config.json` of a diffusers `QwenImageTransformer2DModel` folder.

use serde::{Deserialize, Serialize};

use crate::{
    checkpoint::{
        CheckpointError, ConfigError, Weights,
        config::{self, wrong},
    },
    mmdit::check_axes,
};

/// The class name that diffusers writes.
const CLASS_NAME: &str = "QwenImageTransformer2DModel";

/// A key of published files that the network does not read.
const UNUSED: [&str; 1] = ["pooled_projection_dim"];

/// Epsilon of every norm; not part of the configuration.
pub(super) const EPS: f64 = 1e-6;

/// Hidden channels of the feed-forward layers, as a multiple of the width.
const MLP_RATIO: usize = 4;

/// Sizes of a Qwen-Image transformer, with the field names and defaults of diffusers 0.42.1.
///
/// Every value has been checked: [`QwenImageConfig::from_json`] is the only way to make one from text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_excessive_bools, reason = "the keys of the file")]
pub struct QwenImageConfig {
    /// Side of the square of latents that a token is.
    pub patch_size: usize,
    /// Channels of a token of the packed latents.
    pub in_channels: usize,
    /// Channels of the predicted latents.
    pub out_channels: usize,
    /// Blocks, all of them dual-stream.
    pub num_layers: usize,
    /// Channels of one head.
    pub attention_head_dim: usize,
    /// Attention heads of every block.
    pub num_attention_heads: usize,
    /// Channels of the text encoder's output.
    pub joint_attention_dim: usize,
    /// Whether the model takes a guidance scale; no published one does, and none is implemented.
    pub guidance_embeds: bool,
    /// Channels of a head that each axis of a position rotates: number of the picture, row, column.
    pub axes_dims_rope: [usize; 3],
    /// Whether tokens of reference pictures are modulated as at timestep 0 (Edit-2511).
    pub zero_cond_t: bool,
    /// An input of Qwen-Image-Layered, which is not implemented.
    pub use_additional_t_cond: bool,
    /// Positions of Qwen-Image-Layered, which are not implemented.
    pub use_layer3d_rope: bool,
}

impl Default for QwenImageConfig {
    fn default() -> Self {
        Self {
            patch_size: 2,
            in_channels: 64,
            out_channels: 16,
            num_layers: 60,
            attention_head_dim: 128,
            num_attention_heads: 24,
            joint_attention_dim: 3584,
            guidance_embeds: false,
            axes_dims_rope: [16, 56, 56],
            zero_cond_t: false,
            use_additional_t_cond: false,
            use_layer3d_rope: false,
        }
    }
}

impl QwenImageConfig {
    /// Reads and checks the text of a `config.json`.
    ///
    /// Keys that start with `_` are ignored; any other unknown key is an error, because it may stand for a
    /// part of the network that would be left out silently.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let config: Self = config::read(text, CLASS_NAME, "Qwen-Image", &UNUSED)?;
        config.validated()
    }

    /// The sizes of the network with these tensors, by the names of diffusers. What no tensor says is as in
    /// the published models; with other heads, rows and columns get 7/16 of the channels each, rounded down
    /// to an even number, and the number of the picture the rest.
    ///
    /// # Errors
    /// A tensor that is missing, or sizes that do not fit together.
    pub fn of_weights(weights: &Weights, zero_cond_t: bool) -> Result<Self, CheckpointError> {
        let [inner, in_channels] = weights.axes("img_in.weight")?;
        let [joint_attention_dim] = weights.axes("txt_norm.weight")?;
        let [head_dim] = weights.axes("transformer_blocks.0.attn.norm_q.weight")?;
        let plane = head_dim * 7 / 16 / 2 * 2;
        let config = Self {
            in_channels,
            out_channels: in_channels / 4,
            num_layers: weights.count("transformer_blocks"),
            attention_head_dim: head_dim,
            num_attention_heads: inner.checked_div(head_dim).unwrap_or_default(),
            joint_attention_dim,
            axes_dims_rope: [head_dim - 2 * plane, plane, plane],
            zero_cond_t,
            ..Self::default()
        };
        let bad = |reason: String| CheckpointError::BadConfig { file: weights.place(), reason };
        if config.inner_dim() != inner {
            let reason = format!("norms of {head_dim} channels do not divide the width of {inner}");
            return Err(bad(reason));
        }
        config.validated().map_err(|error| bad(error.to_string()))
    }

    /// Channels of the hidden states: heads times channels per head.
    pub fn inner_dim(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }

    /// Hidden channels of the feed-forward layers.
    pub fn mlp_dim(&self) -> usize {
        MLP_RATIO * self.inner_dim()
    }

    /// Channels of a predicted token.
    pub(super) fn outputs(&self) -> usize {
        self.patch_size * self.patch_size * self.out_channels
    }

    /// Returns the configuration if its values can be used together.
    fn validated(self) -> Result<Self, ConfigError> {
        config::positive(&[
            ("patch_size", self.patch_size),
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("num_layers", self.num_layers),
            ("attention_head_dim", self.attention_head_dim),
            ("num_attention_heads", self.num_attention_heads),
            ("joint_attention_dim", self.joint_attention_dim),
        ])?;
        for (key, value) in [
            ("guidance_embeds", self.guidance_embeds),
            ("use_additional_t_cond", self.use_additional_t_cond),
            ("use_layer3d_rope", self.use_layer3d_rope),
        ] {
            if value {
                return Err(wrong(key, &value, "expected false: such models (Layered) are not implemented"));
            }
        }
        if self.outputs() != self.in_channels {
            let expected = format!("expected patch_size^2 * out_channels = {}", self.outputs());
            return Err(wrong("in_channels", &self.in_channels, expected));
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
        let text = r#"{"_class_name": "QwenImageTransformer2DModel", "_diffusers_version": "0.36.0",
            "num_layers": 60, "pooled_projection_dim": 768, "zero_cond_t": true}"#;
        let config = QwenImageConfig::from_json(text).expect("a valid file");
        assert_eq!((config.inner_dim(), config.mlp_dim(), config.outputs()), (3072, 12288, 64));
        assert_eq!(config, QwenImageConfig { zero_cond_t: true, ..QwenImageConfig::default() });
        let again = serde_json::to_string(&config).expect("serialises");
        assert_eq!(QwenImageConfig::from_json(&again).expect("what we write"), config);
    }

    #[test]
    fn names_the_key_and_the_value_of_what_is_wrong() {
        for (text, parts) in [
            (r#"{"_class_name": "QwenImage21Transformer2DModel"}"#, vec!["QwenImage21", "Qwen-Image"]),
            (r#"{"mlp_ratio": 3.0}"#, vec!["unknown key `mlp_ratio` = 3.0"]),
            (r#"{"num_layers": 0}"#, vec!["`num_layers` is 0"]),
            (r#"{"use_layer3d_rope": true}"#, vec!["`use_layer3d_rope` is true", "Layered"]),
            (r#"{"in_channels": 16}"#, vec!["`in_channels` is 16", "64"]),
            (r#"{"axes_dims_rope": [16, 56, 58]}"#, vec!["[16, 56, 58]", "128"]),
        ] {
            let message = magcache_core::hint::told(&QwenImageConfig::from_json(text).expect_err(text));
            for part in parts {
                assert!(message.contains(part), "`{message}` lacks `{part}`");
            }
        }
    }
}

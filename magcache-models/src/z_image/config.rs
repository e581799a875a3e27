//! `config.json` of a diffusers `ZImageTransformer2DModel` folder.

use serde::{Deserialize, Serialize};

use crate::{
    checkpoint::{
        ConfigError,
        config::{self, wrong},
    },
    mmdit::check_axes,
};

/// The class name that diffusers writes.
const CLASS_NAME: &str = "ZImageTransformer2DModel";

/// Sides of a token in latents, in height and width and in frames: other ones were never published.
pub(super) const PATCH: usize = 2;
const FRAMES: usize = 1;

/// The most channels of the embedding of the timestep.
const EMBEDDED: usize = 256;

/// Image and caption are padded to multiples of this many tokens.
pub const MULTIPLE: usize = 32;

/// Sizes of a Z-Image transformer, with the field names and defaults of diffusers 0.42.1.
///
/// Every value has been checked: [`ZImageConfig::from_json`] is the only way to make one from text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ZImageConfig {
    /// Sides of a token in latents for each embedder; one of 2.
    pub all_patch_size: Vec<usize>,
    /// Frames of a token for each embedder; one of 1.
    pub all_f_patch_size: Vec<usize>,
    /// Channels of the latents.
    pub in_channels: usize,
    /// Channels of the hidden states.
    pub dim: usize,
    /// Blocks over image and caption together.
    pub n_layers: usize,
    /// Blocks over the image alone, and as many over the caption alone.
    pub n_refiner_layers: usize,
    /// Attention heads.
    pub n_heads: usize,
    /// Heads of keys and values: as many.
    pub n_kv_heads: usize,
    /// Added to the mean square in every norm of a block, of queries, keys and captions.
    pub norm_eps: f64,
    /// Whether queries and keys are normed: always.
    pub qk_norm: bool,
    /// Channels of the text encoder's output.
    pub cap_feat_dim: usize,
    /// The Omni models' image features, which are not implemented.
    pub siglip_feat_dim: Option<usize>,
    /// Base of the geometric progression of rotary frequencies.
    pub rope_theta: f64,
    /// What the timestep is multiplied by before it is embedded.
    pub t_scale: f64,
    /// Channels of a head that each axis of a position rotates: token of the caption, row, column.
    pub axes_dims: [usize; 3],
    /// How many positions there are on each axis.
    pub axes_lens: [usize; 3],
}

impl Default for ZImageConfig {
    fn default() -> Self {
        Self {
            all_patch_size: vec![PATCH],
            all_f_patch_size: vec![FRAMES],
            in_channels: 16,
            dim: 3840,
            n_layers: 30,
            n_refiner_layers: 2,
            n_heads: 30,
            n_kv_heads: 30,
            norm_eps: 1e-5,
            qk_norm: true,
            cap_feat_dim: 2560,
            siglip_feat_dim: None,
            rope_theta: 256.0,
            t_scale: 1000.0,
            axes_dims: [32, 48, 48],
            axes_lens: [1024, 512, 512],
        }
    }
}

impl ZImageConfig {
    /// Reads and checks the text of a `config.json`.
    ///
    /// Keys that start with `_` are ignored; any other unknown key is an error, because it may stand for a
    /// part of the network that would be left out silently.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        config::read::<Self>(text, CLASS_NAME, "Z-Image", &[])?.validated()
    }

    /// Hidden channels of the feed-forward layers.
    pub fn hidden(&self) -> usize {
        (self.dim as f64 / 3.0 * 8.0) as usize
    }

    /// Channels of a head.
    pub fn head_dim(&self) -> usize {
        self.dim / self.n_heads.max(1)
    }

    /// Channels of the embedding of the timestep.
    pub fn embedded(&self) -> usize {
        self.dim.min(EMBEDDED)
    }

    /// Channels of a token before it is embedded, and of a predicted one.
    pub fn token(&self) -> usize {
        PATCH * PATCH * self.in_channels
    }

    /// Returns the configuration if its values can be used together.
    pub(super) fn validated(self) -> Result<Self, ConfigError> {
        config::positive(&[
            ("in_channels", self.in_channels),
            ("dim", self.dim),
            ("n_layers", self.n_layers),
            ("n_heads", self.n_heads),
            ("cap_feat_dim", self.cap_feat_dim),
        ])?;
        let only = |key, got: &[usize], one: usize| {
            if got == [one] {
                Ok(())
            } else {
                Err(wrong(key, &format!("{got:?}"), format!("expected [{one}]")))
            }
        };
        only("all_patch_size", &self.all_patch_size, PATCH)?;
        only("all_f_patch_size", &self.all_f_patch_size, FRAMES)?;
        let heads = self.n_heads;
        if !self.dim.is_multiple_of(heads) {
            return Err(wrong("dim", &self.dim, format!("expected a multiple of `n_heads` = {heads}")));
        }
        if self.n_kv_heads != heads {
            return Err(wrong("n_kv_heads", &self.n_kv_heads, format!("expected `n_heads` = {heads}")));
        }
        if !self.qk_norm {
            return Err(wrong("qk_norm", &self.qk_norm, "expected true"));
        }
        if let Some(channels) = self.siglip_feat_dim {
            let expected = "expected null: Z-Image-Omni, which reads images, is not part of this build";
            return Err(wrong("siglip_feat_dim", &channels, expected));
        }
        for (key, value) in
            [("norm_eps", self.norm_eps), ("rope_theta", self.rope_theta), ("t_scale", self.t_scale)]
        {
            if !(value.is_finite() && value > 0.0) {
                return Err(wrong(key, &value, "expected a positive number"));
            }
        }
        check_axes(&self.axes_dims, self.head_dim())?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_diffusers_writes() {
        let text = r#"{"_class_name": "ZImageTransformer2DModel", "_diffusers_version": "0.42.1", "dim": 3840,
            "axes_lens": [1536, 512, 512], "siglip_feat_dim": null, "rope_theta": 256.0}"#;
        let config = ZImageConfig::from_json(text).expect("a valid file");
        assert_eq!((config.hidden(), config.head_dim(), config.token()), (10240, 128, 64));
        assert_eq!((config.embedded(), config.axes_lens[0]), (256, 1536));
        let again = serde_json::to_string(&config).expect("serialises");
        assert_eq!(ZImageConfig::from_json(&again).expect("what we write"), config);
    }

    #[test]
    fn names_the_key_and_the_value_of_what_is_wrong() {
        for (text, parts) in [
            (r#"{"_class_name": "FluxTransformer2DModel"}"#, vec!["`FluxTransformer2DModel`", CLASS_NAME]),
            (r#"{"num_layers": 2}"#, vec!["unknown key `num_layers` = 2"]),
            (r#"{"n_heads": 0}"#, vec!["`n_heads` is 0"]),
            (r#"{"n_heads": 29}"#, vec!["`dim` is 3840", "29"]),
            (r#"{"n_kv_heads": 10}"#, vec!["`n_kv_heads` is 10", "30"]),
            (r#"{"all_patch_size": [2, 4]}"#, vec!["`all_patch_size` is [2, 4]", "[2]"]),
            (r#"{"all_f_patch_size": []}"#, vec!["`all_f_patch_size` is []", "[1]"]),
            (r#"{"siglip_feat_dim": 1152}"#, vec!["`siglip_feat_dim` is 1152", "Omni"]),
            (r#"{"axes_dims": [32, 48, 46]}"#, vec!["[32, 48, 46]", "128"]),
            (r#"{"qk_norm": false}"#, vec!["`qk_norm` is false"]),
            (r#"{"norm_eps": 0}"#, vec!["`norm_eps` is 0"]),
            (r#"{"t_scale": -1}"#, vec!["`t_scale` is -1"]),
        ] {
            let message = magcache_core::hint::told(&ZImageConfig::from_json(text).expect_err(text));
            for part in parts {
                assert!(message.contains(part), "`{message}` lacks `{part}`");
            }
        }
    }
}

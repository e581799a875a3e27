//! `vae/config.json`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::{ImageVaeConfig, LatentScale, refuse};
use crate::{
    autoencoder::{AutoencoderConfigError, image::packing::PATCH},
    checkpoint::{CheckpointError, Folder, config},
};

/// Class of FLUX.1, and of other models with the same autoencoder.
const KL: &str = "AutoencoderKL";

/// Class of FLUX.2.
const FLUX2: &str = "AutoencoderKLFlux2";

/// Keys that do not matter here: for training, for arithmetic in half precision, and the tile size of the
/// reference.
const IGNORED: [&str; 3] = ["batch_norm_momentum", "force_upcast", "sample_size"];

/// `config.json` as written; missing keys have the defaults of its class.
#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "_class_name")]
    class_name: Option<String>,
    in_channels: Option<usize>,
    out_channels: Option<usize>,
    latent_channels: Option<usize>,
    block_out_channels: Option<Vec<usize>>,
    decoder_block_out_channels: Option<Vec<usize>>,
    down_block_types: Option<Vec<String>>,
    up_block_types: Option<Vec<String>>,
    layers_per_block: Option<usize>,
    norm_num_groups: Option<usize>,
    act_fn: Option<String>,
    use_quant_conv: Option<bool>,
    use_post_quant_conv: Option<bool>,
    mid_block_add_attention: Option<bool>,
    scaling_factor: Option<f64>,
    shift_factor: Option<f64>,
    latents_mean: Option<Value>,
    latents_std: Option<Value>,
    batch_norm_eps: Option<f64>,
    patch_size: Option<Vec<usize>>,
    #[serde(flatten)]
    other: BTreeMap<String, Value>,
}

impl ImageVaeConfig {
    /// diffusers' defaults for keys of [`KL`] that a file lacks.
    fn kl_defaults() -> Self {
        Self {
            latent_channels: 4,
            block_out_channels: vec![64],
            layers_per_block: 1,
            use_quant_conv: true,
            use_post_quant_conv: true,
            scale: LatentScale::Factor { scale: 0.18215, shift: 0.0 },
            ..Self::flux1()
        }
    }

    /// From the text of `config.json`. Missing keys have diffusers' defaults. Keys that start with `_` are
    /// for other programs; any other unknown key is refused, because it would change the model.
    ///
    /// # Errors
    /// Text that is not a configuration of one of the two classes, or is not supported.
    pub fn from_json(json: &str) -> Result<Self, AutoencoderConfigError> {
        let raw: Raw = serde_json::from_str(json)?;
        let (defaults, types) = match raw.class_name.as_deref() {
            Some(KL) => (Self::kl_defaults(), 1),
            Some(FLUX2) => (Self::flux2(), 4),
            found => {
                let found = found.unwrap_or("missing").to_owned();
                return Err(AutoencoderConfigError::Class { expected: &[KL, FLUX2], found });
            }
        };
        raw.check_keys(&defaults.scale)?;
        let scale = match defaults.scale {
            LatentScale::Factor { scale, shift } => LatentScale::Factor {
                scale: raw.scaling_factor.unwrap_or(scale),
                shift: raw.shift_factor.unwrap_or(shift),
            },
            LatentScale::BatchNorm { eps } => {
                LatentScale::BatchNorm { eps: raw.batch_norm_eps.unwrap_or(eps) }
            }
        };
        let count = |types_given: &Option<Vec<String>>| types_given.as_ref().map_or(types, Vec::len);
        let counts = [
            ("down_block_types", count(&raw.down_block_types)),
            ("up_block_types", count(&raw.up_block_types)),
        ];
        let config = Self {
            in_channels: raw.in_channels.unwrap_or(defaults.in_channels),
            out_channels: raw.out_channels.unwrap_or(defaults.out_channels),
            latent_channels: raw.latent_channels.unwrap_or(defaults.latent_channels),
            block_out_channels: raw.block_out_channels.unwrap_or(defaults.block_out_channels),
            decoder_block_out_channels: raw.decoder_block_out_channels,
            layers_per_block: raw.layers_per_block.unwrap_or(defaults.layers_per_block),
            norm_num_groups: raw.norm_num_groups.unwrap_or(defaults.norm_num_groups),
            use_quant_conv: raw.use_quant_conv.unwrap_or(defaults.use_quant_conv),
            use_post_quant_conv: raw.use_post_quant_conv.unwrap_or(defaults.use_post_quant_conv),
            mid_block_add_attention: raw.mid_block_add_attention.unwrap_or(defaults.mid_block_add_attention),
            scale,
        };
        for (key, count) in counts {
            if count != config.block_out_channels.len() {
                let levels = config.block_out_channels.len();
                return refuse(key, format!("has {count} entries, block_out_channels has {levels}"));
            }
        }
        config.check()?;
        Ok(config)
    }

    /// Reads `config.json` of the folder `vae`.
    ///
    /// # Errors
    /// [`CheckpointError::Config`] with the file and the reason.
    pub fn read(folder: &Folder) -> Result<Self, CheckpointError> {
        config::read_file(folder, "config.json", Self::from_json, |_| None)
    }
}

impl Raw {
    /// Checks the keys of the class, and that values are supported.
    fn check_keys(&self, scale: &LatentScale) -> Result<(), AutoencoderConfigError> {
        let unknown = |key: &&String| !key.starts_with('_') && !IGNORED.contains(&key.as_str());
        if let Some(key) = self.other.keys().find(unknown) {
            return refuse(key, "is not a key of this class".into());
        }
        let foreign = match scale {
            LatentScale::Factor { .. } => [
                ("batch_norm_eps", self.batch_norm_eps.is_some()),
                ("patch_size", self.patch_size.is_some()),
                ("decoder_block_out_channels", self.decoder_block_out_channels.is_some()),
            ]
            .into_iter()
            .find(|(_, given)| *given),
            LatentScale::BatchNorm { .. } => [
                ("scaling_factor", self.scaling_factor.is_some()),
                ("shift_factor", self.shift_factor.is_some()),
            ]
            .into_iter()
            .find(|(_, given)| *given),
        };
        if let Some((key, _)) = foreign {
            return refuse(key, "is not a key of this class".into());
        }
        let types = [
            ("down_block_types", &self.down_block_types, "DownEncoderBlock2D"),
            ("up_block_types", &self.up_block_types, "UpDecoderBlock2D"),
        ];
        for (key, given, supported) in types {
            if let Some(other) = given.iter().flatten().find(|block| *block != supported) {
                return refuse(key, format!("has \"{other}\", supported is \"{supported}\""));
            }
        }
        if let Some(other) = self.act_fn.as_deref().filter(|act| *act != "silu") {
            return refuse("act_fn", format!("is \"{other}\", supported is \"silu\""));
        }
        for (key, given) in [("latents_mean", &self.latents_mean), ("latents_std", &self.latents_std)] {
            if given.is_some() {
                return refuse(key, "is given, supported is null".into());
            }
        }
        match self.patch_size.as_deref() {
            None | Some([PATCH, PATCH]) => Ok(()),
            Some(other) => refuse("patch_size", format!("is {other:?}, supported is [{PATCH}, {PATCH}]")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEVELS: &str = r#""block_out_channels": [32, 64], "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"]"#;

    fn kl(more: &str) -> String {
        format!(r#"{{"_class_name": "AutoencoderKL", {LEVELS}{more}}}"#)
    }

    fn reason(json: &str) -> String {
        ImageVaeConfig::from_json(json).expect_err(json).to_string()
    }

    #[test]
    fn missing_keys_have_the_defaults_of_the_class() {
        let config =
            ImageVaeConfig::from_json(r#"{"_class_name": "AutoencoderKLFlux2", "sample_size": 1024}"#);
        assert_eq!(config.expect("is valid"), ImageVaeConfig::flux2());
        let config = ImageVaeConfig::from_json(&kl(", \"shift_factor\": null")).expect("is valid");
        assert_eq!(config.scale, LatentScale::Factor { scale: 0.18215, shift: 0.0 });
        assert!(config.use_quant_conv && config.latent_channels == 4 && config.spatial_scale() == 2);
        let config = ImageVaeConfig::flux2();
        assert_eq!((config.normalized_channels(), config.spatial_scale()), (128, 8));
        ImageVaeConfig::flux1().check().expect("is valid");
    }

    #[test]
    fn names_what_does_not_fit() {
        for (json, parts) in [
            (kl(", \"spectral\": 1"), "spectral is not a key"),
            (kl(", \"batch_norm_eps\": 1e-4"), "batch_norm_eps is not a key"),
            (kl(", \"act_fn\": \"gelu\""), "act_fn is \"gelu\", supported is \"silu\""),
            (kl(", \"latents_mean\": [0.0]"), "latents_mean is given"),
            (kl(", \"norm_num_groups\": 5"), "has 32, norm_num_groups is 5"),
            (kl(", \"norm_num_groups\": 0"), "norm_num_groups has 0"),
            (kl(", \"layers_per_block\": 99"), "layers_per_block is 99"),
            (kl(", \"scaling_factor\": 0"), "scaling_factor is 0"),
            (kl(", \"latent_channels\": \"a\""), "line"),
            (
                kl("").replace("\"UpDecoderBlock2D\", ", ""),
                "up_block_types has 1 entries, block_out_channels has 2",
            ),
            (kl("").replace("\"UpDecoderBlock2D\"]", "\"AttnUp\"]"), "has \"AttnUp\", supported"),
            (kl("").replace("KL", "KLWan"), "\"AutoencoderKLWan\", expected \"AutoencoderKL\" or"),
            ("{}".into(), "_class_name is \"missing\""),
            (
                kl("").replace("KL", "KLFlux2").replace('}', ", \"patch_size\": [1, 2]}"),
                "patch_size is [1, 2]",
            ),
            (kl("").replace("KL", "KLFlux2").replace('}', ", \"shift_factor\": 1}"), "shift_factor is not"),
            (
                kl("").replace("KL", "KLFlux2").replace('}', ", \"decoder_block_out_channels\": [32]}"),
                "decoder_block_out_channels has 1 entries",
            ),
        ] {
            assert!(reason(&json).contains(parts), "{json}: {}", reason(&json));
        }
    }
}

//! `vae/config.json`.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{
    autoencoder::AutoencoderConfigError,
    checkpoint::{CheckpointError, Folder, config},
};

/// Classes that diffusers names in the configuration; the second is the first for single pictures.
const CLASSES: &[&str] = &["AutoencoderKLWan", "AutoencoderKLQwenImage"];

/// Keys that do not matter here: for training, and one in published files that the reference does not know
/// either.
const IGNORED: [&str; 2] = ["dropout", "clip_output"];

/// Frames of every encoder chunk but the first, in every published model and in the reference's code.
pub(super) const CHUNK: usize = 4;

/// Channels of a layer above which a configuration is considered damaged.
const MAX_CHANNELS: usize = 1 << 16;

/// Side of a patch above which a configuration is considered damaged.
const MAX_PATCH: usize = 16;

/// Shape of the video autoencoder of Wan 2.1 or, with `is_residual`, of Wan 2.2 (`AutoencoderKLWan`).
///
/// Missing keys have diffusers' defaults. Keys that start with `_` are for other programs; any other unknown
/// key is refused, because it would change the model.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct VideoVaeConfig {
    /// Channels of the encoder at full resolution.
    pub base_dim: usize,
    /// Channels of the decoder at full resolution, if different from the encoder's.
    pub decoder_base_dim: Option<usize>,
    /// Channels of the latents.
    pub z_dim: usize,
    /// Channels at every resolution, as multiples of the base.
    pub dim_mult: Vec<usize>,
    /// Residual blocks at every resolution; the decoder has one more.
    pub num_res_blocks: usize,
    /// Scales at which the encoder has attention; none in any published model.
    pub attn_scales: Vec<f64>,
    /// Whether the step after each resolution but the last also halves the frame rate. Spelled as in the
    /// file.
    pub temperal_downsample: Vec<bool>,
    /// Mean of every latent channel.
    pub latents_mean: Vec<f32>,
    /// Standard deviation of every latent channel.
    pub latents_std: Vec<f32>,
    /// Whether it has the blocks of Wan 2.2, with a shortcut around every level.
    pub is_residual: bool,
    /// Channels of the encoder's input: those of the video times the pixels of a patch. `input_channels` in
    /// the second class.
    #[serde(alias = "input_channels")]
    pub in_channels: usize,
    /// Channels of the decoder's output, likewise.
    pub out_channels: usize,
    /// Side of the squares of pixels that become channels at both ends, in Wan 2.2; `None` means 1.
    pub patch_size: Option<usize>,
    /// Frames per latent frame.
    pub scale_factor_temporal: Option<usize>,
    /// Pixels per latent row or column.
    pub scale_factor_spatial: Option<usize>,
    #[serde(flatten)]
    other: BTreeMap<String, serde_json::Value>,
}

impl Default for VideoVaeConfig {
    fn default() -> Self {
        Self {
            base_dim: 96,
            decoder_base_dim: None,
            z_dim: 16,
            dim_mult: vec![1, 2, 4, 4],
            num_res_blocks: 2,
            attn_scales: Vec::new(),
            temperal_downsample: vec![false, true, true],
            latents_mean: vec![
                -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134, -0.0715, 0.5517,
                -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
            ],
            latents_std: vec![
                2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526, 2.8652,
                1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
            ],
            is_residual: false,
            in_channels: 3,
            out_channels: 3,
            patch_size: None,
            scale_factor_temporal: None,
            scale_factor_spatial: None,
            other: BTreeMap::new(),
        }
    }
}

impl VideoVaeConfig {
    /// From the text of `config.json`.
    pub fn from_json(json: &str) -> Result<Self, AutoencoderConfigError> {
        let config: Self = serde_json::from_str(json)?;
        if let Some(class) = config.other.get("_class_name")
            && !CLASSES.iter().any(|known| class == known)
        {
            let found = class.as_str().map_or_else(|| class.to_string(), str::to_owned);
            return Err(AutoencoderConfigError::Class { expected: CLASSES, found });
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

    /// Frames per latent frame after the first.
    pub fn temporal_scale(&self) -> usize {
        1 << self.temperal_downsample.iter().filter(|halves| **halves).count()
    }

    /// Pixels per latent row or column.
    pub fn spatial_scale(&self) -> usize {
        self.network_scale() * self.patch()
    }

    /// Channels of the video to encode.
    pub fn video_channels(&self) -> usize {
        self.in_channels / self.patch().pow(2)
    }

    /// Side of the squares of pixels that become channels.
    pub(super) fn patch(&self) -> usize {
        self.patch_size.unwrap_or(1)
    }

    /// Rows of patches per latent row.
    pub(super) fn network_scale(&self) -> usize {
        1 << self.temperal_downsample.len()
    }

    /// Frames of a video with this many latent frames.
    pub fn frames(&self, latent_frames: usize) -> usize {
        latent_frames.saturating_sub(1) * self.temporal_scale() + usize::from(latent_frames > 0)
    }

    pub(super) fn check(&self) -> Result<(), AutoencoderConfigError> {
        let refuse =
            |key: &str, reason: String| Err(AutoencoderConfigError::Value { key: key.to_owned(), reason });
        if let Some(key) =
            self.other.keys().find(|key| !key.starts_with('_') && !IGNORED.contains(&key.as_str()))
        {
            return refuse(key, "is not a key of this class".into());
        }
        if !(1..=MAX_PATCH).contains(&self.patch()) {
            return refuse("patch_size", format!("is {}", self.patch()));
        }
        let area = self.patch().pow(2);
        for (key, channels) in [("in_channels", self.in_channels), ("out_channels", self.out_channels)] {
            if !channels.is_multiple_of(area) {
                return refuse(key, format!("is {channels}, patches have {area} pixels"));
            }
        }
        if !self.attn_scales.is_empty() {
            return refuse("attn_scales", format!("is {:?}, supported is none", self.attn_scales));
        }
        let (levels, steps) = (self.dim_mult.len(), self.temperal_downsample.len());
        if !(1..=8).contains(&levels) || levels != steps + 1 {
            let reason =
                format!("has {levels} entries for {steps} of temperal_downsample, expected one more");
            return refuse("dim_mult", reason);
        }
        if self.temporal_scale() > CHUNK {
            let reason = format!("makes {} frames one, the encoder takes {CHUNK}", self.temporal_scale());
            return refuse("temperal_downsample", reason);
        }
        for (key, length) in
            [("latents_mean", self.latents_mean.len()), ("latents_std", self.latents_std.len())]
        {
            if length != self.z_dim {
                return refuse(key, format!("has {length} entries, z_dim is {}", self.z_dim));
            }
        }
        if let Some(std) = self.latents_std.iter().find(|std| !(std.is_finite() && **std > 0.0)) {
            return refuse("latents_std", format!("contains {std}"));
        }
        for (key, base) in [("base_dim", self.base_dim), ("decoder_base_dim", self.decoder_dim())] {
            if let Some(multiple) = self.dim_mult.iter().find(|m| base.checked_mul(**m).is_none_or(unlikely))
            {
                return refuse(key, format!("is {base}, times {multiple} of dim_mult not a sensible size"));
            }
        }
        self.check_shortcuts()?;
        let sizes = [
            ("z_dim", self.z_dim),
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("num_res_blocks", self.num_res_blocks),
        ];
        if let Some((key, size)) = sizes.into_iter().find(|(_, size)| unlikely(*size)) {
            return refuse(key, format!("is {size}"));
        }
        let scales = [
            ("scale_factor_temporal", self.scale_factor_temporal, self.temporal_scale()),
            ("scale_factor_spatial", self.scale_factor_spatial, self.spatial_scale()),
        ];
        for (key, stated, actual) in scales {
            if let Some(stated) = stated.filter(|stated| *stated != actual) {
                return refuse(key, format!("is {stated}, temperal_downsample makes it {actual}"));
            }
        }
        Ok(())
    }

    /// The shortcuts around the levels have no weights, so channels must divide.
    fn check_shortcuts(&self) -> Result<(), AutoencoderConfigError> {
        let refuse = |inputs: usize, outputs: usize| {
            let reason = format!("leads from {inputs} channels to {outputs}, which do not divide");
            Err(AutoencoderConfigError::Value { key: "dim_mult".into(), reason })
        };
        for fold in self.down_levels().into_iter().filter_map(|level| level.shortcut) {
            if !(fold.inputs * fold.volume()).is_multiple_of(fold.outputs) {
                return refuse(fold.inputs, fold.outputs);
            }
        }
        for fold in self.up_levels().into_iter().filter_map(|level| level.shortcut) {
            if !(fold.outputs * fold.volume()).is_multiple_of(fold.inputs) {
                return refuse(fold.inputs, fold.outputs);
            }
        }
        Ok(())
    }

    /// Channels of the decoder at full resolution.
    pub(super) fn decoder_dim(&self) -> usize {
        self.decoder_base_dim.unwrap_or(self.base_dim)
    }
}

/// Whether a size can only come from a damaged configuration.
fn unlikely(size: usize) -> bool {
    !(1..=MAX_CHANNELS).contains(&size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(json: &str) -> String {
        VideoVaeConfig::from_json(json).expect_err(json).to_string()
    }

    #[test]
    fn defaults_are_those_of_wan_2_1() {
        let config = VideoVaeConfig::from_json(r#"{"_class_name": "AutoencoderKLWan"}"#).expect("is valid");
        assert_eq!((config.temporal_scale(), config.spatial_scale()), (4, 8));
        assert_eq!([0, 1, 2, 21].map(|n| config.frames(n)), [0, 1, 5, 81]);
    }

    #[test]
    fn patches_count_into_the_scale() {
        let json = r#"{"is_residual": true, "patch_size": 2, "in_channels": 12, "out_channels": 12,
            "scale_factor_spatial": 16, "clip_output": false}"#;
        let config = VideoVaeConfig::from_json(json).expect("is valid");
        assert_eq!((config.temporal_scale(), config.spatial_scale(), config.video_channels()), (4, 16, 3));
    }

    #[test]
    fn names_what_does_not_fit() {
        assert!(
            reason(r#"{"_class_name": "AutoencoderKL"}"#)
                .contains("\"AutoencoderKL\", expected \"AutoencoderKLWan\" or")
        );
        assert!(reason(r#"{"base_dim": "a"}"#).contains("line 1"));
        assert!(reason(r#"{"spectral": 1}"#).contains("spectral"));
        assert!(reason(r#"{"patch_size": 2}"#).contains("in_channels is 3, patches have 4 pixels"));
        assert!(reason(r#"{"patch_size": 0}"#).contains("patch_size is 0"));
        assert!(reason(r#"{"temperal_downsample": [true, true, true]}"#).contains("8 frames one"));
        assert!(
            reason(r#"{"is_residual": true, "dim_mult": [1, 9, 9, 9]}"#).contains("from 96 channels to 864")
        );
        assert!(reason(r#"{"attn_scales": [1.0]}"#).contains("attn_scales"));
        assert!(reason(r#"{"dim_mult": [1, 2]}"#).contains("2 entries for 3"));
        assert!(reason(r#"{"z_dim": 4}"#).contains("latents_mean has 16 entries, z_dim is 4"));
        assert!(reason(r#"{"base_dim": 0}"#).contains("is 0"));
        assert!(
            reason(r#"{"dim_mult": [1, 2, 4, 18446744073709551615]}"#)
                .contains("base_dim is 96, times 18446744073709551615")
        );
        assert!(reason(r#"{"scale_factor_temporal": 8}"#).contains("is 8"));
        assert!(reason(r#"{"z_dim": 1, "latents_mean": [0], "latents_std": [0]}"#).contains("contains 0"));
    }
}

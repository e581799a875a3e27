//! Shape of the autoencoders.

mod file;

use super::packing::PATCH;
use crate::autoencoder::AutoencoderConfigError;

/// Channels of a layer above which a configuration is considered damaged.
const MAX_CHANNELS: usize = 1 << 16;

/// Resolutions, and blocks at each, above which a configuration is considered damaged.
const MAX_BLOCKS: usize = 16;

/// Shape of an image autoencoder (`AutoencoderKL`, `AutoencoderKLFlux2`).
#[derive(Clone, Debug, PartialEq)]
pub struct ImageVaeConfig {
    /// Channels of the images that are encoded.
    pub in_channels: usize,
    /// Channels of the decoded images.
    pub out_channels: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Channels at every resolution of the encoder, from the highest.
    pub block_out_channels: Vec<usize>,
    /// Those of the decoder, also from the highest, if different from the encoder's.
    pub decoder_block_out_channels: Option<Vec<usize>>,
    /// Residual blocks at every resolution; the decoder has one more.
    pub layers_per_block: usize,
    /// Groups of channels that are normed together.
    pub norm_num_groups: usize,
    /// Whether a convolution of one pixel follows the encoder.
    pub use_quant_conv: bool,
    /// Whether a convolution of one pixel precedes the decoder.
    pub use_post_quant_conv: bool,
    /// Whether the pixels attend to each other at the lowest resolution.
    pub mid_block_add_attention: bool,
    /// How latents are brought to the scale that the transformer was trained with.
    pub scale: LatentScale,
}

/// How latents are brought to mean 0 and deviation 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LatentScale {
    /// FLUX.1: `(z - shift) * scale`.
    Factor {
        /// `scaling_factor`.
        scale: f64,
        /// `shift_factor`, 0 if the file has none.
        shift: f64,
    },
    /// FLUX.2: running mean and variance of every channel of squares of two by two latents, loaded with the
    /// weights.
    BatchNorm {
        /// Added to the variance (`batch_norm_eps`).
        eps: f64,
    },
}

impl ImageVaeConfig {
    /// The autoencoder of all FLUX.1 models.
    pub fn flux1() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            latent_channels: 16,
            block_out_channels: vec![128, 256, 512, 512],
            decoder_block_out_channels: None,
            layers_per_block: 2,
            norm_num_groups: 32,
            use_quant_conv: false,
            use_post_quant_conv: false,
            mid_block_add_attention: true,
            scale: LatentScale::Factor { scale: 0.3611, shift: 0.1159 },
        }
    }

    /// The autoencoder of all FLUX.2 models.
    pub fn flux2() -> Self {
        Self {
            latent_channels: 32,
            use_quant_conv: true,
            use_post_quant_conv: true,
            scale: LatentScale::BatchNorm { eps: 1e-4 },
            ..Self::flux1()
        }
    }

    /// Pixels per latent row or column.
    pub fn spatial_scale(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1)
    }

    /// Channels of normalised latents: in FLUX.2 those of squares of two by two.
    pub fn normalized_channels(&self) -> usize {
        match self.scale {
            LatentScale::Factor { .. } => self.latent_channels,
            LatentScale::BatchNorm { .. } => PATCH * PATCH * self.latent_channels,
        }
    }

    /// Channels at every resolution of the decoder, from the highest.
    pub(super) fn decoder_channels(&self) -> &[usize] {
        self.decoder_block_out_channels.as_deref().unwrap_or(&self.block_out_channels)
    }

    pub(super) fn check(&self) -> Result<(), AutoencoderConfigError> {
        let levels = self.block_out_channels.len();
        if !(1..=MAX_BLOCKS).contains(&levels) {
            return refuse("block_out_channels", format!("has {levels} entries, expected 1 to {MAX_BLOCKS}"));
        }
        if self.decoder_channels().len() != levels {
            let got = self.decoder_channels().len();
            let reason = format!("has {got} entries, block_out_channels has {levels}");
            return refuse("decoder_block_out_channels", reason);
        }
        if !(1..=MAX_BLOCKS).contains(&self.layers_per_block) {
            let reason = format!("is {}, expected 1 to {MAX_BLOCKS}", self.layers_per_block);
            return refuse("layers_per_block", reason);
        }
        let sizes = [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("latent_channels", self.latent_channels),
            ("norm_num_groups", self.norm_num_groups),
        ];
        let lists = [
            ("block_out_channels", self.block_out_channels.as_slice()),
            ("decoder_block_out_channels", self.decoder_channels()),
        ];
        let of_lists = lists.into_iter().flat_map(|(key, list)| list.iter().map(move |n| (key, *n)));
        for (key, channels) in sizes.into_iter().chain(of_lists.clone()) {
            if !(1..=MAX_CHANNELS).contains(&channels) {
                return refuse(key, format!("has {channels}, expected 1 to {MAX_CHANNELS}"));
            }
        }
        let groups = self.norm_num_groups;
        for (key, channels) in of_lists {
            if !channels.is_multiple_of(groups) {
                return refuse(key, format!("has {channels}, norm_num_groups is {groups}"));
            }
        }
        match self.scale {
            LatentScale::Factor { scale, .. } if !(scale.is_finite() && scale > 0.0) => {
                refuse("scaling_factor", format!("is {scale}, expected more than 0"))
            }
            LatentScale::Factor { shift, .. } if !shift.is_finite() => {
                refuse("shift_factor", format!("is {shift}"))
            }
            LatentScale::BatchNorm { eps } if !(eps.is_finite() && eps > 0.0) => {
                refuse("batch_norm_eps", format!("is {eps}, expected more than 0"))
            }
            _ => Ok(()),
        }
    }
}

fn refuse<T>(key: &str, reason: String) -> Result<T, AutoencoderConfigError> {
    Err(AutoencoderConfigError::Value { key: key.to_owned(), reason })
}

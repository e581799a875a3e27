//! The image autoencoders of FLUX.1 and FLUX.2.
//!
//! Images are `[batch, channels, height, width]` in -1..=1, not clamped; *raw* latents, those of the
//! autoencoder, `[batch, latent_channels, height / 8, width / 8]`. The transformers take *tokens*
//! `[batch, height / 16 * width / 16, 4 * latent_channels]`: raw latents in squares of two by two, ordered
//! channel, row, column, and scaled to mean 0 and deviation 1. [`ImageVae::to_tokens`] and
//! [`ImageVae::from_tokens`] convert between them for both models; the individual steps are
//! [`ImageVae::normalize`], [`ImageVae::denormalize`] and the functions of [`packing`]. What differs between
//! the models is in [`LatentScale`]. Always f32, with the weights in the type in which they are stored.
//!
//! # Memory
//!
//! The largest tensors are those of the decoder at full resolution: several of `4 c W H` bytes with `c`
//! channels (256 in the published models, before the last blocks halve them). [`Tiling`] limits `W` and `H`
//! to those of a tile; the image comes on top. With tiles of `s` pixels, `s` / 4 of them blended, the result
//! is that of the reference's `enable_tiling` for a `sample_size` of `s`: not exactly that of the whole
//! image, because no tile sees past its edges, not even for the mean and deviation in its norms. A picture no
//! larger than a tile is processed whole.
//!
//! # Source
//!
//! `AutoencoderKL` and `AutoencoderKLFlux2` of diffusers 0.42.1, `FluxPipeline` and `Flux2Pipeline` for the
//! latents. Differences: a wrong shape is an error before anything is computed, and tiles that would cut a
//! latent are refused.

mod blocks;
mod config;
mod decoder;
mod distribution;
mod encoder;
mod memory;
pub mod names;
pub mod packing;
mod scale;
#[cfg(test)]
mod tests;

pub use config::{ImageVaeConfig, LatentScale};
pub use distribution::LatentDistribution;

use candle_core::{DType, Device, Tensor};

use self::{decoder::Decoder, encoder::Encoder, scale::Scale};
use super::{
    AutoencoderError,
    error::Result,
    tiling::{self, Grid, Span, Tiling},
};
use crate::{
    checkpoint::{CheckpointError, Folder, WeightDtype, Weights},
    nn::Linear,
};

/// Encoder and decoder.
#[derive(Debug)]
pub struct ImageVae {
    config: ImageVaeConfig,
    encoder: Encoder,
    quant_conv: Option<Linear>,
    post_quant_conv: Option<Linear>,
    decoder: Decoder,
    scale: Scale,
}

impl ImageVae {
    /// Reads the folder `vae` in the layout of diffusers, with weights in their stored type.
    ///
    /// # Errors
    /// As [`ImageVaeConfig::read`] and [`Self::load`].
    pub fn open(folder: &Folder, device: &Device) -> std::result::Result<Self, CheckpointError> {
        let config = ImageVaeConfig::read(folder)?;
        Self::load(&Weights::open(folder, device, WeightDtype::Keep)?, &config)
    }

    /// Reads a single file with native names (`ae.safetensors`), which has no configuration: use
    /// [`ImageVaeConfig::flux1`] or [`ImageVaeConfig::flux2`] for the published ones.
    ///
    /// Files with the names of diffusers are read too.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn open_file(
        folder: &Folder,
        file: &str,
        config: &ImageVaeConfig,
        device: &Device,
    ) -> std::result::Result<Self, CheckpointError> {
        Self::load(
            &names::translated(Weights::open_files(folder, &[file], device, WeightDtype::Keep)?)?,
            config,
        )
    }

    /// Loads the tensors from `weights`, named as in diffusers.
    ///
    /// # Errors
    /// A configuration that does not fit together, a missing tensor or a wrong shape.
    pub fn load(weights: &Weights, config: &ImageVaeConfig) -> std::result::Result<Self, CheckpointError> {
        config
            .check()
            .map_err(|e| CheckpointError::BadConfig { file: weights.place(), reason: e.to_string() })?;
        let pointwise = |used: bool, name: &str, channels: usize| {
            used.then(|| Linear::load_pointwise(&weights.pp(name), channels, channels, 2)).transpose()
        };
        Ok(Self {
            encoder: Encoder::load(&weights.pp("encoder"), config)?,
            quant_conv: pointwise(config.use_quant_conv, "quant_conv", 2 * config.latent_channels)?,
            post_quant_conv: pointwise(
                config.use_post_quant_conv,
                "post_quant_conv",
                config.latent_channels,
            )?,
            decoder: Decoder::load(&weights.pp("decoder"), config)?,
            scale: Scale::load(weights, config)?,
            config: config.clone(),
        })
    }

    /// Shape of the autoencoder.
    pub fn config(&self) -> &ImageVaeConfig {
        &self.config
    }

    /// Images `[batch, in_channels, height, width]` in -1..=1 to the distribution of their raw latents.
    ///
    /// Without tiles, heights and widths that are not multiples of the spatial scale lose their last rows and
    /// columns, as in the reference.
    ///
    /// # Errors
    /// Images of another shape or size, or tiles that this autoencoder does not support.
    pub fn encode(&self, images: &Tensor, tiling: Option<Tiling>) -> Result<LatentDistribution> {
        let [height, width] = shape(images, "images", self.config.in_channels)?;
        let scale = self.config.spatial_scale();
        if height < scale || width < scale {
            return Err(AutoencoderError::TooSmall { what: "images", width, height, least: scale });
        }
        let grid = tiling.map(|tiling| tiling.grid(scale, scale, [height / scale, width / scale]));
        let moments = match grid.transpose()?.flatten() {
            None => image(&self.encode_part(images)?)?,
            Some(_) if height % scale != 0 || width % scale != 0 => {
                return Err(AutoencoderError::NotAMultiple {
                    what: "images",
                    width,
                    height,
                    multiple: scale,
                    how: "in tiles",
                });
            }
            Some(grid) => assemble(&grid, 1, |rows, columns| {
                let rows = images.narrow(2, scale * rows.start, scale * rows.length)?;
                self.encode_part(&rows.narrow(3, scale * columns.start, scale * columns.length)?)
            })?,
        };
        Ok(LatentDistribution::new(moments, self.config.latent_channels))
    }

    /// Raw latents `[batch, latent_channels, h, w]` to images `[batch, out_channels, height, width]`, not
    /// clamped.
    ///
    /// # Errors
    /// Latents of another shape, or tiles that this autoencoder does not support.
    pub fn decode(&self, z: &Tensor, tiling: Option<Tiling>) -> Result<Tensor> {
        let latents = shape(z, "latents", self.config.latent_channels)?;
        let scale = self.config.spatial_scale();
        let grid = tiling.map(|tiling| tiling.grid(scale, scale, latents));
        let Some(grid) = grid.transpose()?.flatten() else { return Ok(image(&self.decode_part(z)?)?) };
        assemble(&grid, scale, |rows, columns| {
            let rows = z.narrow(2, rows.start, rows.length)?;
            self.decode_part(&rows.narrow(3, columns.start, columns.length)?)
        })
    }

    /// Raw latents to the latents of the reference's pipelines, with mean 0 and deviation 1.
    ///
    /// FLUX.1: `(z - shift) * scale`, the same shape. FLUX.2: squares of two by two are first turned into
    /// channels, then `(z - mean) / std` per channel, `[batch, 4 * latent_channels, h / 2, w / 2]`.
    ///
    /// # Errors
    /// Latents of another shape; with FLUX.2 an odd height or width.
    pub fn normalize(&self, z: &Tensor) -> Result<Tensor> {
        shape(z, "latents", self.config.latent_channels)?;
        self.scale.normalize(z)
    }

    /// The inverse of [`Self::normalize`].
    ///
    /// # Errors
    /// Latents of another shape.
    pub fn denormalize(&self, latents: &Tensor) -> Result<Tensor> {
        shape(latents, "latents", self.config.normalized_channels())?;
        self.scale.denormalize(latents)
    }

    /// Raw latents `[batch, latent_channels, h, w]` to tokens for the transformer,
    /// `[batch, h / 2 * w / 2, 4 * latent_channels]`.
    ///
    /// # Errors
    /// Latents of another shape, or with an odd height or width.
    pub fn to_tokens(&self, z: &Tensor) -> Result<Tensor> {
        let latents = self.normalize(z)?;
        match self.config.scale {
            LatentScale::Factor { .. } => packing::pack(&latents),
            LatentScale::BatchNorm { .. } => packing::flatten(&latents),
        }
    }

    /// The inverse of [`Self::to_tokens`]; `grid` is the rows and columns of tokens.
    ///
    /// # Errors
    /// Another number or size of tokens.
    pub fn from_tokens(&self, tokens: &Tensor, grid: [usize; 2]) -> Result<Tensor> {
        let latents = match self.config.scale {
            LatentScale::Factor { .. } => packing::unpack(tokens, grid)?,
            LatentScale::BatchNorm { .. } => packing::unflatten(tokens, grid)?,
        };
        self.denormalize(&latents)
    }

    /// Images `[batch, channels, height, width]` to moments `[batch, 2 * latent_channels, 1, h, w]`.
    fn encode_part(&self, images: &Tensor) -> candle_core::Result<Tensor> {
        let mut x = self.encoder.forward(network(images)?)?;
        if let Some(conv) = &self.quant_conv {
            x = conv.forward(&x)?;
        }
        channels_first(&x)
    }

    /// Raw latents `[batch, latent_channels, h, w]` to images `[batch, channels, 1, height, width]`.
    fn decode_part(&self, z: &Tensor) -> candle_core::Result<Tensor> {
        let mut x = network(z)?;
        if let Some(conv) = &self.post_quant_conv {
            x = conv.forward(&x)?;
        }
        channels_first(&self.decoder.forward(x)?)
    }
}

/// Assembles pictures `[batch, channels, height, width]` from tiles `[batch, channels, 1, height, width]`.
fn assemble(
    grid: &Grid,
    unit: usize,
    tile: impl Fn(Span, Span) -> candle_core::Result<Tensor>,
) -> Result<Tensor> {
    let pictures: candle_core::Result<Tensor> =
        tiling::assemble(grid, unit, |rows, columns, next| next(tile(rows, columns)?), Ok);
    Ok(image(&pictures?)?)
}

/// `[batch, channels, height, width]` to `[batch, 1, height, width, channels]` in f32.
fn network(x: &Tensor) -> candle_core::Result<Tensor> {
    x.to_dtype(DType::F32)?.permute((0, 2, 3, 1))?.contiguous()?.unsqueeze(1)
}

/// `[batch, 1, height, width, channels]` to `[batch, channels, 1, height, width]`.
fn channels_first(x: &Tensor) -> candle_core::Result<Tensor> {
    x.permute((0, 4, 1, 2, 3))?.contiguous()
}

/// Removes the axis of frames.
fn image(x: &Tensor) -> candle_core::Result<Tensor> {
    x.squeeze(2)
}

/// Height and width of a tensor with `channels` channels.
fn shape(x: &Tensor, what: &'static str, channels: usize) -> Result<[usize; 2]> {
    match *x.dims() {
        [_, c, height, width] if c == channels && x.elem_count() > 0 => Ok([height, width]),
        _ => {
            let expected = format!("[batch, {channels}, height, width]");
            Err(AutoencoderError::Shape { what, got: x.dims().to_vec(), expected })
        }
    }
}

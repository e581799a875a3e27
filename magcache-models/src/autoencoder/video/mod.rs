//! The video autoencoder of Wan 2.1 and Wan 2.2.
//!
//! Outside, videos are `[batch, channels, frames, height, width]` in -1..=1 and latents
//! `[batch, z_dim, latent frames, height / 8, width / 8]` (16 in Wan 2.2, whose network works on patches of
//! two by two pixels); inside, the channels come last. Both directions work on a stream of chunks and
//! remember the last frames of every layer: the first chunk is one frame, every other one latent frame or
//! four frames. Always f32.
//!
//! Latents come in two scales. *Raw* latents are those of the autoencoder; *normalised* ones, with mean 0 and
//! deviation 1 in every channel, are those of the transformer and the sampler. [`VideoVae::normalize`] and
//! [`VideoVae::denormalize`] convert between them; every other function here takes or returns raw ones.
//!
//! # Memory
//!
//! Decoding as a stream ([`VideoVae::decode_stream`]) takes the same memory whatever the length of the video:
//! what the layers remember, and what is alive in the largest of them. With `b` channels of the decoder at
//! full resolution, that is at most about `(98 + 72) b W H` bytes for `W` by `H` pixels with the levels of
//! Wan 2.1, and `(28 + 33) b W H` with those of Wan 2.2, whose network sees a quarter of the pixels.
//! [`Tiling`] limits `W` and `H` in this formula to those of a tile: tiles are processed one after the other,
//! each over all frames, so only one stream is alive. On top come the video itself, `12 W H` bytes a frame,
//! and the rows and columns still to be blended, about half as much again. [`VideoVaeConfig::decode_memory`]
//! gives the bound in bytes. With the published configurations (`b` = 96 and 256), 121 frames of 1280x720, in
//! addition to the weights and some MB per thread:
//!
//! | | whole frames | tiles of 256 every 192 |
//! |---|---|---|
//! | Wan 2.1 | 8.7 + 6.4 GB | 0.6 + 1.1 GB, frames 2.0 GB |
//! | Wan 2.2 | 6.6 + 7.7 GB | 0.5 + 1.1 GB, frames 2.0 GB |
//!
//! Encoding works the same way. The video is read chunk by chunk, tile by tile. As in the reference, its
//! tiles are counted in patches: with the patch size 2 of Wan 2.2 a tile of 256 covers 512 pixels of it.
//!
//! # Source
//!
//! `AutoencoderKLWan` of diffusers 0.42.1, with these differences: tiles must be multiples of a latent pixel
//! and leave no gap between them, and a wrong shape is an error where the reference fails somewhere inside.

mod blocks;
mod cache;
mod config;
mod decoder;
mod encoder;
mod footage;
mod layout;
mod levels;
mod memory;
mod names;
mod native;
mod network;
mod observe;
mod resample;
mod stream;
#[cfg(test)]
mod tests;

pub use config::VideoVaeConfig;
pub use memory::DecodeMemory;
pub use names::{VaeNames, vae};
pub use native::described;
pub use observe::{Observation, Observer};
pub use stream::{DecodeStream, EncodeStream};

use candle_core::Tensor;

use self::{
    config::CHUNK,
    footage::Footage,
    layout::{channels_first, to_video},
    network::Network,
    observe::Trace,
};
use super::{
    AutoencoderError,
    error::Result,
    tiling::{self, Tiling},
};
use crate::{
    checkpoint::{CheckpointError, Folder, WeightDtype, Weights},
    nn::Linear,
};

/// Encoder and decoder.
#[derive(Debug)]
pub struct VideoVae {
    config: VideoVaeConfig,
    encoder: Network,
    quant_conv: Linear,
    post_quant_conv: Linear,
    decoder: Network,
    /// `[1, z_dim, 1, 1, 1]`.
    mean: Tensor,
    /// Reciprocal of the deviation, in f32 as in the reference, `[1, z_dim, 1, 1, 1]`.
    inverse_std: Tensor,
}

impl VideoVae {
    /// Reads the folder `vae`, with weights in their stored type.
    pub fn open(folder: &Folder, device: &candle_core::Device) -> std::result::Result<Self, CheckpointError> {
        let config = VideoVaeConfig::read(folder)?;
        Self::load(&Weights::open(folder, device, WeightDtype::Keep)?, &config)
    }

    /// Loads the tensors from `weights`.
    ///
    /// # Errors
    /// A configuration that does not fit together, a missing tensor or a wrong shape.
    pub fn load(weights: &Weights, config: &VideoVaeConfig) -> std::result::Result<Self, CheckpointError> {
        config
            .check()
            .map_err(|e| CheckpointError::BadConfig { file: weights.place(), reason: e.to_string() })?;
        let vector =
            |values: Vec<f32>| Tensor::new(values, weights.device())?.reshape((1, config.z_dim, 1, 1, 1));
        Ok(Self {
            encoder: Network::encoder(&weights.pp("encoder"), config)?,
            quant_conv: Linear::load_pointwise(
                &weights.pp("quant_conv"),
                2 * config.z_dim,
                2 * config.z_dim,
                3,
            )?,
            post_quant_conv: Linear::load_pointwise(
                &weights.pp("post_quant_conv"),
                config.z_dim,
                config.z_dim,
                3,
            )?,
            decoder: Network::decoder(&weights.pp("decoder"), config)?,
            mean: vector(config.latents_mean.clone())?,
            inverse_std: vector(config.latents_std.iter().map(|std| 1.0 / std).collect())?,
            config: config.clone(),
        })
    }

    /// Shape of the autoencoder.
    pub fn config(&self) -> &VideoVaeConfig {
        &self.config
    }

    /// Raw latents to normalised ones, `(z - mean) / std` per channel.
    pub fn normalize(&self, z: &Tensor) -> Result<Tensor> {
        self.latent_shape(z)?;
        Ok(z.broadcast_sub(&self.mean)?.broadcast_mul(&self.inverse_std)?)
    }

    /// Normalised latents to raw ones, `z * std + mean` per channel.
    pub fn denormalize(&self, latents: &Tensor) -> Result<Tensor> {
        self.latent_shape(latents)?;
        Ok(latents.broadcast_div(&self.inverse_std)?.broadcast_add(&self.mean)?)
    }

    /// Raw latents `[batch, z_dim, n, h, w]` to frames `[batch, channels, frames, height, width]` in -1..=1;
    /// `n` latent frames make `1 + 4 (n - 1)` frames.
    ///
    /// The whole video is returned in one piece. Without tiles, [`Self::decode_stream`] returns it frame by
    /// frame.
    ///
    /// # Errors
    /// Latents of another shape, or tiles that this autoencoder does not support.
    pub fn decode(&self, z: &Tensor, tiling: Option<Tiling>) -> Result<Tensor> {
        let [_, frames, height, width] = self.latent_shape(z)?;
        let scale = self.config.spatial_scale();
        let grid = tiling.map(|tiling| tiling.grid(scale, scale, [height, width]));
        let Some(grid) = grid.transpose()?.flatten() else {
            let mut stream = self.decode_stream();
            let frames = (0..frames).map(|i| stream.push(&z.narrow(2, i, 1)?)).collect::<Result<Vec<_>>>()?;
            return Ok(Tensor::cat(&frames, 2)?);
        };
        tiling::assemble(
            &grid,
            self.config.network_scale(),
            |rows, columns, next| {
                let tile = z.narrow(3, rows.start, rows.length)?.narrow(4, columns.start, columns.length)?;
                let mut cache = self.decoder.cache();
                for i in 0..frames {
                    let x = self.decode_chunk(&tile.narrow(2, i, 1)?, &mut cache, &mut Trace::off())?;
                    next(channels_first(&x)?)?;
                }
                Ok(())
            },
            |band| {
                let band = band.permute((0, 2, 3, 4, 1))?;
                Ok(to_video(&band, self.config.patch())?.clamp(-1f32, 1f32)?)
            },
        )
    }

    /// Decodes a video one latent frame at a time, with bounded memory and visible progress.
    pub fn decode_stream(&self) -> DecodeStream<'_> {
        DecodeStream::new(self)
    }

    /// Encodes a video chunk by chunk, with bounded memory and visible progress.
    pub fn encode_stream(&self) -> EncodeStream<'_> {
        EncodeStream::new(self)
    }

    /// Frames `[batch, channels, frames, height, width]` in -1..=1 to raw latents, the mean of their
    /// distribution.
    ///
    /// Frames past the last full chunk (`1 + 4 k`) are dropped, as in the reference. In Wan 2.1 without
    /// tiles, heights and widths that are not multiples of the spatial scale lose their last rows and
    /// columns.
    ///
    /// # Errors
    /// Frames of another shape or size, or tiles that this autoencoder does not support.
    pub fn encode(&self, video: &Tensor, tiling: Option<Tiling>) -> Result<Tensor> {
        Ok(self.moments(video, tiling)?.narrow(1, 0, self.config.z_dim)?)
    }

    /// [`Self::encode`] with the logarithm of the variance after the mean, `[batch, 2 * z_dim, n, h, w]`.
    pub fn moments(&self, video: &Tensor, tiling: Option<Tiling>) -> Result<Tensor> {
        let [_, _, height, width] = self.video_shape(video)?;
        self.moments_of(&Footage::Video(video), [height, width], tiling)
    }

    /// Raw latents of a video that begins with the image `first`, `[batch, channels, height, width]` in
    /// -1..=1, optionally ends with `last`, and is zero in between: the condition of image-to-video models.
    ///
    /// The video of `frames` frames is built chunk by chunk and never held as a whole.
    ///
    /// # Errors
    /// Images of another shape or of two shapes; fewer frames than images; as [`Self::encode`].
    pub fn encode_condition(
        &self,
        first: &Tensor,
        last: Option<&Tensor>,
        frames: usize,
        tiling: Option<Tiling>,
    ) -> Result<Tensor> {
        let image = |x: &Tensor| if x.rank() == 4 { x.unsqueeze(2) } else { Ok(x.clone()) };
        let (first, last) = (image(first)?, last.map(image).transpose()?);
        let [_, count, height, width] = self.video_shape(&first)?;
        if let Some(last) = &last
            && last.shape() != first.shape()
        {
            return Err(AutoencoderError::Images { first: first.dims().into(), last: last.dims().into() });
        }
        if count != 1 {
            let expected = "1 for an image".into();
            return Err(AutoencoderError::FrameCount { what: "frames", got: count, expected });
        }
        let images = 1 + usize::from(last.is_some());
        if frames < images || !(frames - 1).is_multiple_of(CHUNK) {
            let expected = format!("1 more than a multiple of {CHUNK}, and at least {images}");
            return Err(AutoencoderError::FrameCount { what: "frames", got: frames, expected });
        }
        let footage = Footage::Images { first: &first, last: last.as_ref(), frames };
        Ok(self.moments_of(&footage, [height, width], tiling)?.narrow(1, 0, self.config.z_dim)?)
    }

    fn moments_of(
        &self,
        footage: &Footage<'_>,
        [height, width]: [usize; 2],
        tiling: Option<Tiling>,
    ) -> Result<Tensor> {
        let (scale, chunks) = (self.config.spatial_scale(), 1 + (footage.frames()? - 1) / CHUNK);
        let latents = [height / scale, width / scale];
        // As in the reference, the pixels of a tile are counted in patches here.
        let grid = tiling.map(|tiling| tiling.grid(scale, self.config.network_scale(), latents));
        let encode = |rows: std::ops::Range<usize>,
                      columns: std::ops::Range<usize>,
                      next: &mut dyn FnMut(Tensor) -> Result<()>| {
            let mut cache = self.encoder.cache();
            for chunk in 0..chunks {
                let frames = if chunk == 0 { 0..1 } else { CHUNK * chunk - CHUNK + 1..CHUNK * chunk + 1 };
                let part = footage.part(frames, rows.clone(), columns.clone())?;
                next(self.encode_chunk(&part, &mut cache, &mut Trace::off())?)?;
            }
            Ok(())
        };
        let Some(grid) = grid.transpose()?.flatten() else {
            let mut moments = Vec::with_capacity(chunks);
            encode(0..height, 0..width, &mut |chunk| {
                moments.push(chunk);
                Ok(())
            })?;
            return Ok(Tensor::cat(&moments, 2)?);
        };
        if height % scale != 0 || width % scale != 0 {
            return Err(AutoencoderError::NotAMultiple {
                what: "frames",
                width,
                height,
                multiple: scale,
                how: "in tiles",
            });
        }
        let pixels = |span: tiling::Span| scale * span.start..scale * (span.start + span.length);
        tiling::assemble(&grid, 1, |rows, columns, next| encode(pixels(rows), pixels(columns), next), Ok)
    }

    /// Batch, frames, height and width of latents.
    fn latent_shape(&self, z: &Tensor) -> Result<[usize; 4]> {
        shape(z, "latents", self.config.z_dim)
    }

    /// Batch, frames, height and width of a video, checked for encoding.
    fn video_shape(&self, video: &Tensor) -> Result<[usize; 4]> {
        let [batch, frames, height, width] = shape(video, "frames", self.config.video_channels())?;
        let least = self.config.spatial_scale();
        if height < least || width < least {
            return Err(AutoencoderError::TooSmall { what: "frames", width, height, least });
        }
        // Patches and shortcuts need whole blocks at every level.
        let whole = self.config.is_residual || self.config.patch() > 1;
        if whole && (height % least != 0 || width % least != 0) {
            return Err(AutoencoderError::NotAMultiple {
                what: "frames",
                width,
                height,
                multiple: least,
                how: "by this model",
            });
        }
        Ok([batch, frames, height, width])
    }
}

/// Batch, frames, height and width of a tensor with `channels` channels.
fn shape(x: &Tensor, what: &'static str, channels: usize) -> Result<[usize; 4]> {
    match *x.dims() {
        [batch, c, frames, height, width] if c == channels && x.elem_count() > 0 => {
            Ok([batch, frames, height, width])
        }
        _ => {
            let expected = format!("[batch, {channels}, frames, height, width]");
            Err(AutoencoderError::Shape { what, got: x.dims().to_vec(), expected })
        }
    }
}

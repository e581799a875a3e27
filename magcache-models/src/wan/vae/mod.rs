//! The video autoencoder of Wan 2.1.
//!
//! Outside, videos are `[batch, channels, frames, height, width]` in -1..=1 and latents
//! `[batch, z_dim, latent frames, height / 8, width / 8]`; inside, the channels come last. Both directions work on a
//! stream of chunks and remember the last frames of every layer, so memory does not grow with the length of the video:
//! the first chunk is one frame, every other one latent frame or four frames. Always f32.
//!
//! Latents come in two scales. *Raw* latents are those of the autoencoder; *normalised* ones, with mean 0 and deviation
//! 1 in every channel, are those of the transformer and the sampler. [`WanVae::normalize`] and
//! [`WanVae::denormalize`] go between them, every other function here takes or gives raw ones.
//!
//! Source: `AutoencoderKLWan` of diffusers 0.42.1. It is not tiled here: the streaming already bounds the memory.

mod blocks;
mod cache;
mod config;
mod decoder;
mod encoder;
mod norm;
#[cfg(test)]
mod tests;

pub use config::{WanVaeConfig, WanVaeConfigError};

use candle_core::{DType, Tensor};

use self::{blocks::pointwise, cache::FeatureCache, decoder::Decoder, encoder::Encoder};
use crate::{
    checkpoint::{CheckpointError, Folder, WeightDtype, Weights},
    nn::Linear,
};

/// Frames of every chunk of the encoder but the first.
const CHUNK: usize = 4;

/// Encoder and decoder.
#[derive(Debug)]
pub struct WanVae {
    config: WanVaeConfig,
    encoder: Encoder,
    quant_conv: Linear,
    post_quant_conv: Linear,
    decoder: Decoder,
    /// `[1, z_dim, 1, 1, 1]`.
    mean: Tensor,
    /// One over the deviation, in f32 as the reference has it, `[1, z_dim, 1, 1, 1]`.
    inverse_std: Tensor,
}

impl WanVae {
    /// Reads the folder `vae`, weights in the type in which they are stored.
    pub fn open(folder: &Folder, device: &candle_core::Device) -> Result<Self, CheckpointError> {
        let config = WanVaeConfig::read(folder)?;
        Self::load(&Weights::open(folder, device, WeightDtype::Keep)?, &config)
    }

    /// Takes the tensors out of `weights`.
    ///
    /// # Errors
    /// A configuration that does not fit together, a missing tensor or a wrong shape.
    pub fn load(weights: &Weights, config: &WanVaeConfig) -> Result<Self, CheckpointError> {
        config
            .check()
            .map_err(|e| CheckpointError::BadConfig { file: weights.place(), reason: e.to_string() })?;
        let vector =
            |values: Vec<f32>| Tensor::new(values, weights.device())?.reshape((1, config.z_dim, 1, 1, 1));
        Ok(Self {
            encoder: Encoder::load(&weights.pp("encoder"), config)?,
            quant_conv: pointwise(&weights.pp("quant_conv"), 2 * config.z_dim, 2 * config.z_dim, 3)?,
            post_quant_conv: pointwise(&weights.pp("post_quant_conv"), config.z_dim, config.z_dim, 3)?,
            decoder: Decoder::load(&weights.pp("decoder"), config)?,
            mean: vector(config.latents_mean.clone())?,
            inverse_std: vector(config.latents_std.iter().map(|std| 1.0 / std).collect())?,
            config: config.clone(),
        })
    }

    /// Shape of the autoencoder.
    pub fn config(&self) -> &WanVaeConfig {
        &self.config
    }

    /// Raw latents to normalised ones, `(z - mean) / std` for every channel.
    pub fn normalize(&self, z: &Tensor) -> candle_core::Result<Tensor> {
        z.broadcast_sub(&self.mean)?.broadcast_mul(&self.inverse_std)
    }

    /// Normalised latents to raw ones, `z * std + mean` for every channel.
    pub fn denormalize(&self, latents: &Tensor) -> candle_core::Result<Tensor> {
        latents.broadcast_div(&self.inverse_std)?.broadcast_add(&self.mean)
    }

    /// Raw latents `[batch, z_dim, n, h, w]` to frames `[batch, channels, frames, height, width]` in -1..=1; `n` latent
    /// frames make `1 + 4 (n - 1)` frames.
    pub fn decode(&self, z: &Tensor) -> candle_core::Result<Tensor> {
        let mut stream = self.decode_stream();
        let frames = (0..z.dim(2)?)
            .map(|i| stream.push(&z.narrow(2, i, 1)?))
            .collect::<candle_core::Result<Vec<_>>>()?;
        if frames.is_empty() {
            candle_core::bail!("decoding: got {:?}, expected at least one latent frame", z.shape());
        }
        Tensor::cat(&frames, 2)
    }

    /// Decodes a video latent frame by latent frame, for bounded memory and a sign of progress.
    pub fn decode_stream(&self) -> DecodeStream<'_> {
        DecodeStream { vae: self, cache: self.decoder.cache() }
    }

    /// Frames `[batch, channels, frames, height, width]` in -1..=1 to raw latents, the mean of their distribution.
    ///
    /// Frames past the last full chunk (`1 + 4 k`) are dropped, as the reference does; heights and widths that are not
    /// multiples of the spatial factor lose their last rows and columns.
    pub fn encode(&self, video: &Tensor) -> candle_core::Result<Tensor> {
        self.moments(video)?.narrow(1, 0, self.config.z_dim)
    }

    /// [`Self::encode`] with the logarithm of the variance behind the mean, `[batch, 2 * z_dim, n, h, w]`.
    pub fn moments(&self, video: &Tensor) -> candle_core::Result<Tensor> {
        self.moments_traced(video, &mut |_, _, _| Ok(()))
    }

    fn moments_traced(
        &self,
        video: &Tensor,
        trace: &mut dyn FnMut(usize, &str, &Tensor) -> candle_core::Result<()>,
    ) -> candle_core::Result<Tensor> {
        let frames = video.dims5()?.2;
        if frames == 0 {
            candle_core::bail!("encoding: got {:?}, expected at least one frame", video.shape());
        }
        let video = channels_last(&video.to_dtype(DType::F32)?)?;
        let mut cache = self.encoder.cache();
        let mut chunks = Vec::with_capacity(1 + (frames - 1) / CHUNK);
        for chunk in 0..=(frames - 1) / CHUNK {
            let (start, length) = if chunk == 0 { (0, 1) } else { (1 + CHUNK * (chunk - 1), CHUNK) };
            let x = video.narrow(1, start, length)?.contiguous()?;
            chunks.push(self.encoder.forward(&x, &mut cache, &mut |name, x| trace(chunk, name, x))?);
        }
        channels_first(&self.quant_conv.forward(&Tensor::cat(&chunks, 1)?)?)
    }
}

/// A video in the course of being decoded.
#[derive(Debug)]
pub struct DecodeStream<'a> {
    vae: &'a WanVae,
    cache: FeatureCache,
}

impl DecodeStream<'_> {
    /// The next raw latent frame, `[batch, z_dim, 1, h, w]`, to its frames `[batch, channels, 1 or 4, height, width]` in
    /// -1..=1. Batch and size must stay the same over the stream.
    pub fn push(&mut self, z: &Tensor) -> candle_core::Result<Tensor> {
        self.push_traced(z, &mut |_, _| Ok(()))?.clamp(-1f32, 1f32)
    }

    fn push_traced(&mut self, z: &Tensor, trace: decoder::Trace<'_>) -> candle_core::Result<Tensor> {
        let (_, channels, frames, _, _) = z.dims5()?;
        if frames != 1 || channels != self.vae.config.z_dim {
            let z_dim = self.vae.config.z_dim;
            candle_core::bail!(
                "decoding: got {:?}, expected one latent frame of {z_dim} channels",
                z.shape()
            );
        }
        let z = self.vae.post_quant_conv.forward(&channels_last(&z.to_dtype(DType::F32)?)?)?;
        channels_first(&self.vae.decoder.forward(&z, &mut self.cache, trace)?)
    }
}

fn channels_last(x: &Tensor) -> candle_core::Result<Tensor> {
    x.permute((0, 2, 3, 4, 1))?.contiguous()
}

fn channels_first(x: &Tensor) -> candle_core::Result<Tensor> {
    x.permute((0, 4, 1, 2, 3))?.contiguous()
}

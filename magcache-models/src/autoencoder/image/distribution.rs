//! The encoder's distribution of an image's latents.

use candle_core::Tensor;

use crate::autoencoder::error::{AutoencoderError, Result};

/// Logarithms of a variance are clamped to this range.
const LOG_VARIANCE: (f32, f32) = (-30.0, 20.0);

/// A normal distribution for every raw latent.
///
/// Which of its values to use is the pipeline's choice. Those of diffusers take the [mean](Self::mean) of
/// reference images (FLUX.2, FLUX.1 Kontext) and a [sample](Self::sample) of images to edit
/// (`FluxImg2ImgPipeline`, `FluxInpaintPipeline`, `FluxFillPipeline`) or to follow (`FluxControlPipeline`).
/// Both are raw latents.
///
/// Source: `DiagonalGaussianDistribution` of diffusers 0.42.1.
#[derive(Clone, Debug)]
pub struct LatentDistribution {
    moments: Tensor,
    channels: usize,
}

impl LatentDistribution {
    /// From moments `[batch, 2 * channels, h, w]`.
    pub(super) fn new(moments: Tensor, channels: usize) -> Self {
        Self { moments, channels }
    }

    /// Mean and then logarithm of the variance, as the encoder returned them,
    /// `[batch, 2 * latent_channels, h, w]`.
    pub fn moments(&self) -> &Tensor {
        &self.moments
    }

    /// The mean, `[batch, latent_channels, h, w]`; the reference's `mode`.
    ///
    /// # Errors
    /// Those of the tensor library.
    pub fn mean(&self) -> Result<Tensor> {
        Ok(self.moments.narrow(1, 0, self.channels)?)
    }

    /// Logarithm of the variance, clamped to -30..=20, `[batch, latent_channels, h, w]`.
    ///
    /// # Errors
    /// Those of the tensor library.
    pub fn log_variance(&self) -> Result<Tensor> {
        let (least, most) = LOG_VARIANCE;
        Ok(self.moments.narrow(1, self.channels, self.channels)?.clamp(least, most)?)
    }

    /// Standard deviation, `[batch, latent_channels, h, w]`.
    ///
    /// # Errors
    /// Those of the tensor library.
    pub fn std(&self) -> Result<Tensor> {
        Ok((self.log_variance()? * 0.5)?.exp()?)
    }

    /// `mean + std * noise`, with `noise` from the standard normal distribution,
    /// `[batch, latent_channels, h, w]`.
    ///
    /// # Errors
    /// [`AutoencoderError::Shape`] for noise of another shape than the mean.
    pub fn sample(&self, noise: &Tensor) -> Result<Tensor> {
        let mean = self.mean()?;
        if noise.dims() != mean.dims() {
            let (got, expected) = (noise.dims().to_vec(), format!("{:?}", mean.dims()));
            return Err(AutoencoderError::Shape { what: "values of noise", got, expected });
        }
        Ok((mean + (self.std()? * noise.to_dtype(self.moments.dtype())?)?)?)
    }
}

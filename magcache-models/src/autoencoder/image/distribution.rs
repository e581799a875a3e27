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

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// Mean, given and clamped logarithm of the variance, noise, deviation, and sample, from
    /// `DiagonalGaussianDistribution` of diffusers 0.42.1 (`tests/reference/flux_vae.py` prints them).
    #[expect(clippy::unreadable_literal, reason = "as the reference prints them")]
    const RECORDED: [[f32; 6]; 12] = [
        [0.0, 0.0, 0.0, -0.48678076, 1.0, -0.48678076],
        [0.36161542, 14.464617, 14.464617, -0.6038216, 1383.4122, -834.97253],
        [0.6742879, 26.971516, 20.0, -0.55809623, 22026.465, -12292.213],
        [0.89569867, 35.827946, 20.0, 0.6675243, 22026.465, 14704.096],
        [0.99588084, 39.835236, 20.0, -0.1974151, 22026.465, -4347.361],
        [0.9612752, 38.451008, 20.0, 1.9427835, 22026.465, 42793.613],
        [0.7965655, 31.86262, 20.0, -1.401702, 22026.465, -30873.744],
        [0.52404433, 20.961773, 20.0, -0.76255715, 22026.465, -16795.914],
        [0.18059626, 7.2238503, 7.2238503, 0.6312134, 37.037285, 23.559027],
        [-0.18729466, -7.4917865, -7.4917865, -0.8991352, 0.023614526, -0.20852731],
        [-0.5298361, -21.193445, -21.193445, -0.55779344, 2.4997804e-05, -0.52985007],
        [-0.8006668, -32.026672, -30.0, 0.69071877, 3.0590232e-07, -0.8006666],
    ];

    #[test]
    fn distributions_are_clamped_and_sampled_as_in_the_reference() -> Result<()> {
        let recorded = |column: usize| RECORDED.map(|row| row[column]);
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu)?.reshape((1, values.len() / 6, 2, 3));
        let values = |x: Tensor| x.flatten_all()?.to_vec1::<f32>();
        let latents = LatentDistribution::new(tensor(&[recorded(0), recorded(1)].concat())?, 2);
        assert_eq!(values(latents.mean()?)?, recorded(0));
        assert_eq!(values(latents.log_variance()?)?, recorded(2));
        let noise = tensor(&recorded(3))?;
        for (ours, expected) in [(latents.std()?, recorded(4)), (latents.sample(&noise)?, recorded(5))] {
            let ours = values(ours)?;
            // From 3e-7 to 22026, so the tolerance is relative.
            let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 4.0 * f32::EPSILON * b.abs();
            assert!(ours.len() == 12 && ours.iter().zip(&expected).all(close), "{ours:?} {expected:?}");
        }
        let error = latents.sample(&noise.narrow(1, 0, 1)?).expect_err("one channel").to_string();
        assert!(error.contains("noise have shape [1, 1, 2, 3], expected [1, 2, 2, 3]"), "{error}");
        Ok(())
    }
}

//! Conversion between raw latents and those that the transformer was trained with.

use candle_core::Tensor;

use super::{ImageVaeConfig, LatentScale, packing};
use crate::{
    autoencoder::error::Result,
    checkpoint::{CheckpointError, Weights},
};

/// A [`LatentScale`] with its statistics.
#[derive(Debug)]
pub(super) enum Scale {
    /// The same for all latents.
    Factor { scale: f64, shift: f64 },
    /// Per channel of patches, both `[1, 4 * latent_channels, 1, 1]`.
    BatchNorm { mean: Tensor, std: Tensor },
}

impl Scale {
    /// Reads `bn.running_mean` and `bn.running_var` if the model has them. The count of training batches
    /// stored with them is not used.
    pub(super) fn load(
        weights: &Weights,
        config: &ImageVaeConfig,
    ) -> std::result::Result<Self, CheckpointError> {
        let eps = match config.scale {
            LatentScale::Factor { scale, shift } => return Ok(Self::Factor { scale, shift }),
            LatentScale::BatchNorm { eps } => eps,
        };
        let (weights, channels) = (weights.pp("bn"), config.normalized_channels());
        weights.spare(&["num_batches_tracked"]);
        let read = |name| -> std::result::Result<Tensor, CheckpointError> {
            Ok(weights.get_f32(name, &[channels])?.reshape((1, channels, 1, 1))?)
        };
        Ok(Self::BatchNorm { mean: read("running_mean")?, std: (read("running_var")? + eps)?.sqrt()? })
    }

    /// See [`ImageVae::normalize`](super::ImageVae::normalize).
    pub(super) fn normalize(&self, z: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Factor { scale, shift } => ((z - *shift)? * *scale)?,
            Self::BatchNorm { mean, std } => packing::patchify(z)?.broadcast_sub(mean)?.broadcast_div(std)?,
        })
    }

    /// See [`ImageVae::denormalize`](super::ImageVae::denormalize).
    pub(super) fn denormalize(&self, latents: &Tensor) -> Result<Tensor> {
        match self {
            Self::Factor { scale, shift } => Ok(((latents / *scale)? + *shift)?),
            Self::BatchNorm { mean, std } => {
                packing::unpatchify(&latents.broadcast_mul(std)?.broadcast_add(mean)?)
            }
        }
    }
}

//! How far what a lane shows is from what the dense one shows.

use candle_core::Tensor;
use magcache_models::quality::{Quality, QualityError, compare_tensors};

/// PSNR and SSIM of frames `[frames, height, width, channels]` in 0..=1 against those of a dense run.
pub(crate) fn quality(frames: &Tensor, dense: &Tensor) -> Result<Quality, QualityError> {
    compare_tensors(frames, dense, 1.0)
}

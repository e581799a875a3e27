//! How far the frames of a lane are from those of the dense one.

use crate::quality::{Quality, QualityError, compare_tensors};
use candle_core::Tensor;

/// PSNR and SSIM of frames `[frames, height, width, channels]` in 0..=1 against those of a dense run.
pub(crate) fn quality(frames: &Tensor, dense: &Tensor) -> Result<Quality, QualityError> {
    compare_tensors(frames, dense, 1.0)
}

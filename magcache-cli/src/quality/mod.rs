//! How different two videos are: PSNR, SSIM, SSIMULACRA2 and LPIPS, frame by frame.
//!
//! PSNR and SSIM are equal to scikit-image 0.26 (`peak_signal_noise_ratio`, and `structural_similarity` with
//! `channel_axis=-1` and its defaults: uniform window of 7, sample covariance, K1 = 0.01, K2 = 0.03), except
//! that all arithmetic is f64, where scikit-image keeps f32 inputs in f32.
//!
//! ```
//! use magcache_cli::quality::{Frames, compare};
//!
//! # fn main() -> Result<(), magcache_cli::quality::QualityError> {
//! let dense: Vec<u8> = (0..2 * 8 * 8 * 3).map(|i| (i * 7 % 251) as u8).collect();
//! let mut cached = dense.clone();
//! cached[0] += 16;
//! let shape = [2, 8, 8, 3];
//! let quality = compare(Frames::new(&dense, shape)?, Frames::new(&cached, shape)?, 255.0)?;
//! assert!(quality.frames[0].psnr > 46.0 && quality.frames[0].ssim < 1.0);
//! assert!(quality.frames[1].identical() && quality.frames[1].ssim == 1.0);
//! assert_eq!(quality.psnr(), quality.frames[0].psnr);
//! # Ok(())
//! # }
//! ```

mod asked;
mod lpips;
mod perceptual;
mod scores;
mod ssim;

use candle_core::{DType, Tensor};
use rayon::prelude::*;
use serde::Serialize;

pub(crate) use asked::asked;
pub use lpips::Lpips;
pub use perceptual::perceptual;
pub use scores::Scores;

/// Side of SSIM's window, in pixels.
pub const WINDOW: usize = 7;

/// Why two videos cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum QualityError {
    /// The buffer's length does not match the shape.
    #[error("got {len} samples for frames of shape {shape:?}")]
    Length {
        /// Samples in the buffer.
        len: usize,
        /// `[frames, height, width, channels]`.
        shape: [usize; 4],
    },
    /// The two videos differ in size.
    #[error(
        "cannot compare frames of shape {a:?} with frames of shape {b:?} (frames, height, width, channels)"
    )]
    Shape {
        /// The first video.
        a: [usize; 4],
        /// The second video.
        b: [usize; 4],
    },
    /// No frame, or frames smaller than the window.
    #[error(
        "frames of shape {shape:?} are too small: at least one frame of {WINDOW}x{WINDOW} pixels with one channel is \
         needed"
    )]
    Small {
        /// `[frames, height, width, channels]`.
        shape: [usize; 4],
    },
    /// Frames that a network for LPIPS has no output for.
    #[error(
        "LPIPS by {network} needs RGB frames of at least {side}x{side} pixels, got frames of shape {shape:?}"
    )]
    TooSmallFor {
        /// The network.
        network: &'static str,
        /// The smallest height and width.
        side: usize,
        /// `[frames, height, width, channels]`.
        shape: [usize; 4],
    },
    /// The data range is not positive.
    #[error("data_range = {got} is not valid: expected a number above 0, such as 255 for u8 frames")]
    DataRange {
        /// The range given.
        got: f64,
    },
    /// A value is infinite or not a number.
    #[error("frame {frame} holds a value that is not finite")]
    NotFinite {
        /// Index of the frame.
        frame: usize,
    },
    /// A tensor that is not `[frames, height, width, channels]`, or could not be read.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// A borrowed video `[frames, height, width, channels]`, channels innermost; one image is one frame.
#[derive(Clone, Copy, Debug)]
pub struct Frames<'a, T> {
    samples: &'a [T],
    shape: [usize; 4],
}

impl<'a, T: Copy + Into<f64> + Sync> Frames<'a, T> {
    /// Frames of `u8`, `f32` or `f64` samples.
    ///
    /// # Errors
    /// If the shape is not that of the buffer.
    pub fn new(samples: &'a [T], shape: [usize; 4]) -> Result<Self, QualityError> {
        let len = shape.iter().try_fold(1_usize, |len, &extent| len.checked_mul(extent));
        if len != Some(samples.len()) {
            return Err(QualityError::Length { len: samples.len(), shape });
        }
        Ok(Self { samples, shape })
    }

    fn frames(&self) -> std::slice::Chunks<'a, T> {
        self.samples.chunks(self.shape[1..].iter().product::<usize>().max(1))
    }
}

/// One pair of frames.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct FrameQuality {
    /// Peak signal-to-noise ratio in dB; `f64::INFINITY` (`null` in JSON) if the frames are equal.
    pub psnr: f64,
    /// Structural similarity, -1 to 1, the mean over the channels; 1 if the frames are equal.
    pub ssim: f64,
}

impl FrameQuality {
    /// True if every sample is equal.
    pub fn identical(&self) -> bool {
        self.psnr.is_infinite()
    }
}

/// Two videos, frame by frame.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Quality {
    /// One entry per pair of frames.
    pub frames: Vec<FrameQuality>,
}

impl Quality {
    /// Mean PSNR over the frames that differ, in dB; `f64::INFINITY` (`null` in JSON) if none does. Equal
    /// frames are left out because one of them would make the mean infinite and hide the rest.
    pub fn psnr(&self) -> f64 {
        let differing: Vec<f64> = self.frames.iter().filter(|f| !f.identical()).map(|f| f.psnr).collect();
        if differing.is_empty() {
            return f64::INFINITY;
        }
        differing.iter().sum::<f64>() / differing.len() as f64
    }

    /// Mean SSIM over all frames.
    pub fn ssim(&self) -> f64 {
        self.frames.iter().map(|f| f.ssim).sum::<f64>() / self.frames.len() as f64
    }

    /// The smallest PSNR of a frame.
    pub fn worst_psnr(&self) -> f64 {
        self.frames.iter().map(|f| f.psnr).fold(f64::INFINITY, f64::min)
    }

    /// The smallest SSIM of a frame.
    pub fn worst_ssim(&self) -> f64 {
        self.frames.iter().map(|f| f.ssim).fold(1.0, f64::min)
    }

    /// True if every sample of every frame is equal.
    pub fn identical(&self) -> bool {
        self.frames.iter().all(FrameQuality::identical)
    }
}

/// Compares two videos of the same shape. `data_range` is the distance between the lowest and the highest
/// possible value: 255 for u8, 1 for values in 0..=1, 2 for -1..=1.
///
/// # Errors
/// Shapes that differ, frames smaller than SSIM's window of 7 x 7, a range that is not positive, or values
/// that are not finite.
pub fn compare<T: Copy + Into<f64> + Sync>(
    a: Frames<'_, T>,
    b: Frames<'_, T>,
    data_range: f64,
) -> Result<Quality, QualityError> {
    if a.shape != b.shape {
        return Err(QualityError::Shape { a: a.shape, b: b.shape });
    }
    let [frames, height, width, channels] = a.shape;
    if frames == 0 || channels == 0 || height < WINDOW || width < WINDOW {
        return Err(QualityError::Small { shape: a.shape });
    }
    if !(data_range.is_finite() && data_range > 0.0) {
        return Err(QualityError::DataRange { got: data_range });
    }
    let pairs: Vec<_> = a.frames().zip(b.frames()).enumerate().collect();
    let one = |(frame, (a, b)): (usize, (&[T], &[T]))| {
        let widen = |samples: &[T]| samples.iter().map(|&v| v.into()).collect::<Vec<f64>>();
        let (a, b) = (widen(a), widen(b));
        if !a.iter().chain(&b).all(|v| v.is_finite()) {
            return Err(QualityError::NotFinite { frame });
        }
        let ssim = ssim::ssim(&a, &b, [height, width, channels], data_range);
        Ok(FrameQuality { psnr: psnr(&a, &b, data_range), ssim })
    };
    Ok(Quality { frames: pairs.into_par_iter().map(one).collect::<Result<_, _>>()? })
}

/// [`compare`] for tensors `[frames, height, width, channels]` of u8 or of any float dtype.
///
/// # Errors
/// As [`compare`], or tensors of another rank.
#[expect(clippy::disallowed_methods, reason = "pictures are compared on the host")]
pub fn compare_tensors(a: &Tensor, b: &Tensor, data_range: f64) -> Result<Quality, QualityError> {
    let shape = |tensor: &Tensor| tensor.dims4().map(|(t, h, w, c)| [t, h, w, c]);
    let samples = |tensor: &Tensor| tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
    let (samples_a, samples_b) = (samples(a)?, samples(b)?);
    compare(Frames::new(&samples_a, shape(a)?)?, Frames::new(&samples_b, shape(b)?)?, data_range)
}

/// Peak signal-to-noise ratio: `10 * log10(data_range^2 / mse)` in dB over every
/// sample of a frame; infinite for equal frames.
fn psnr(a: &[f64], b: &[f64], data_range: f64) -> f64 {
    let squares: f64 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
    if squares == 0.0 {
        return f64::INFINITY;
    }
    10.0 * (data_range.powi(2) / (squares / a.len() as f64)).log10()
}

//! Videos that are encoded without being held in memory as a whole.

use std::ops::Range;

use candle_core::{DType, Result, Tensor};

/// Frames `[batch, channels, frames, height, width]`, read piece by piece.
pub(super) enum Footage<'a> {
    /// Frames in memory.
    Video(&'a Tensor),
    /// An image, zeros, and perhaps another image; both images are `[batch, channels, 1, height, width]`.
    Images { first: &'a Tensor, last: Option<&'a Tensor>, frames: usize },
}

impl Footage<'_> {
    pub(super) fn frames(&self) -> Result<usize> {
        match self {
            Self::Video(video) => video.dim(2),
            Self::Images { frames, .. } => Ok(*frames),
        }
    }

    /// Some frames, rows and columns.
    pub(super) fn part(
        &self,
        frames: Range<usize>,
        rows: Range<usize>,
        columns: Range<usize>,
    ) -> Result<Tensor> {
        let cut = |x: &Tensor| x.narrow(3, rows.start, rows.len())?.narrow(4, columns.start, columns.len());
        match self {
            Self::Video(video) => cut(&video.narrow(2, frames.start, frames.len())?),
            Self::Images { first, last, frames: count } => {
                let mut parts = Vec::with_capacity(frames.len());
                for frame in frames {
                    let image = match last {
                        _ if frame == 0 => Some(*first),
                        Some(last) if frame + 1 == *count => Some(*last),
                        _ => None,
                    };
                    let part = cut(image.unwrap_or(first))?.to_dtype(DType::F32)?;
                    parts.push(if image.is_some() { part } else { part.zeros_like()? });
                }
                Tensor::cat(&parts, 2)
            }
        }
    }
}

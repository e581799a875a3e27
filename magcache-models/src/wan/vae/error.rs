//! What the autoencoder refuses.

use crate::{pipeline::PipelineError, tiling::TilingError};

/// Why something cannot be encoded or decoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WanVaeError {
    /// A tensor of another rank, of other channels, or with nothing in it.
    #[error("the {what} have shape {got:?}, expected {expected}, none of them 0")]
    Shape {
        /// Latents or frames.
        what: &'static str,
        /// Their shape.
        got: Vec<usize>,
        /// The shape in words, with the number of channels.
        expected: String,
    },
    /// Frames that have no latent pixel.
    #[error("frames of {width}x{height} pixels are too small, expected at least {least}x{least}")]
    TooSmall {
        /// Columns of pixels.
        width: usize,
        /// Rows of pixels.
        height: usize,
        /// Pixels of a latent row or column.
        least: usize,
    },
    /// Frames that do not divide into what a latent pixel stands for, where that is needed.
    #[error(
        "frames of {width}x{height} pixels cannot be encoded {how}: both must be multiples of {multiple}\n\
         hint: the nearest below are {}x{}", width / multiple * multiple, height / multiple * multiple
    )]
    NotAMultiple {
        /// Columns of pixels.
        width: usize,
        /// Rows of pixels.
        height: usize,
        /// Pixels of a latent row or column.
        multiple: usize,
        /// Which way of encoding needs it.
        how: &'static str,
    },
    /// A chunk of a stream, or a video, of a length that it cannot have.
    #[error("got {got} {what}, expected {expected}")]
    FrameCount {
        /// Latent frames or frames.
        what: &'static str,
        /// How many came.
        got: usize,
        /// How many there may be.
        expected: String,
    },
    /// A chunk that does not go on where the stream was.
    #[error("a stream of batch {} and {}x{} cannot go on with batch {} and {}x{} (width x height)\n\
             hint: start a new stream for another video",
            expected[0], expected[2], expected[1], got[0], got[2], got[1])]
    StreamChanged {
        /// Batch, height and width of the first chunk.
        expected: [usize; 3],
        /// Those of this one.
        got: [usize; 3],
    },
    /// Images of one video that differ.
    #[error("the last image has shape {last:?}, the first has {first:?}")]
    Images {
        /// Shape of the first.
        first: Vec<usize>,
        /// Shape of the last.
        last: Vec<usize>,
    },
    /// Tiles that this autoencoder cannot make.
    #[error(transparent)]
    Tiling(#[from] TilingError),
    /// The tensor library failed, for instance for want of memory.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl From<WanVaeError> for PipelineError {
    fn from(error: WanVaeError) -> Self {
        match error {
            WanVaeError::Tensor(error) => Self::Tensor(error),
            other => Self::part("autoencoder", other),
        }
    }
}

/// What encoding and decoding give.
pub(super) type Result<T> = std::result::Result<T, WanVaeError>;

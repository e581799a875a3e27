//! What the autoencoder refuses.

use crate::{pipeline::PipelineError, tiling::TilingError};

/// Why something cannot be encoded, decoded or packed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FluxVaeError {
    /// A tensor of another rank, of other channels, or with nothing in it.
    #[error("the {what} have shape {got:?}, expected {expected}, none of them 0")]
    Shape {
        /// Latents, tokens or images.
        what: &'static str,
        /// Their shape.
        got: Vec<usize>,
        /// The shape in words, with the number of channels.
        expected: String,
    },
    /// Images that have no latent pixel.
    #[error("images of {width}x{height} pixels are too small, expected at least {least}x{least}")]
    TooSmall {
        /// Columns of pixels.
        width: usize,
        /// Rows of pixels.
        height: usize,
        /// Pixels of a latent row or column.
        least: usize,
    },
    /// Images that do not divide into latents, where tiles need it.
    #[error(
        "images of {width}x{height} pixels cannot be encoded in tiles: both must be multiples of {multiple}\n\
         hint: the nearest below are {}x{}", width / multiple * multiple, height / multiple * multiple
    )]
    NotAMultiple {
        /// Columns of pixels.
        width: usize,
        /// Rows of pixels.
        height: usize,
        /// Pixels of a latent row or column.
        multiple: usize,
    },
    /// Latents that do not divide into squares of two by two.
    #[error(
        "latents of {width}x{height} do not divide into tokens of 2x2\n\
         hint: use an image whose sides are multiples of twice the spatial scale of the autoencoder"
    )]
    Odd {
        /// Columns of latents.
        width: usize,
        /// Rows of latents.
        height: usize,
    },
    /// Tiles that this autoencoder cannot make.
    #[error(transparent)]
    Tiling(#[from] TilingError),
    /// The tensor library failed, for instance for want of memory.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl From<FluxVaeError> for PipelineError {
    fn from(error: FluxVaeError) -> Self {
        match error {
            FluxVaeError::Tensor(error) => Self::Tensor(error),
            other => Self::part("autoencoder", other),
        }
    }
}

/// What encoding and decoding give.
pub(super) type Result<T> = std::result::Result<T, FluxVaeError>;

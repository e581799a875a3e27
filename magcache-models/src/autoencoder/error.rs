//! Errors of the autoencoders.

use magcache_core::hint::{self, Hint};

use super::TilingError;

/// Why something cannot be encoded, decoded or packed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AutoencoderError {
    /// A tensor of another rank or number of channels, or with an axis of length 0.
    #[error("the {what} have shape {got:?}, expected {expected}, none of them 0")]
    Shape {
        /// Latents, tokens, frames or images.
        what: &'static str,
        /// Their shape.
        got: Vec<usize>,
        /// The shape in words, with the number of channels.
        expected: String,
    },
    /// Frames or images that have no latent pixel.
    #[error("{what} of {width}x{height} pixels are too small, expected at least {least}x{least}")]
    TooSmall {
        /// Frames or images.
        what: &'static str,
        /// Columns of pixels.
        width: usize,
        /// Rows of pixels.
        height: usize,
        /// Pixels of a latent row or column.
        least: usize,
    },
    /// Frames or images whose size is not a multiple of a latent pixel, if that is required.
    #[error(
        "{what} of {width}x{height} pixels cannot be encoded {how}: both must be multiples of {multiple}"
    )]
    NotAMultiple {
        /// Frames or images.
        what: &'static str,
        /// Columns of pixels.
        width: usize,
        /// Rows of pixels.
        height: usize,
        /// Pixels of a latent row or column.
        multiple: usize,
        /// Which way of encoding requires it.
        how: &'static str,
    },
    /// Latents that do not divide into squares of two by two.
    #[error("latents of {width}x{height} do not divide into tokens of 2x2")]
    Odd {
        /// Columns of latents.
        width: usize,
        /// Rows of latents.
        height: usize,
    },
    /// A chunk of a stream, or a video, of an invalid length.
    #[error("got {got} {what}, expected {expected}")]
    FrameCount {
        /// Latent frames or frames.
        what: &'static str,
        /// How many were given.
        got: usize,
        /// How many are allowed.
        expected: String,
    },
    /// A chunk that does not continue its stream.
    #[error("a stream of batch {} and {}x{} cannot go on with batch {} and {}x{} (width x height)",
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
    /// Tiles that this autoencoder does not support.
    #[error(transparent)]
    Tiling(#[from] TilingError),
    /// The tensor library failed, for instance because memory ran out.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl Hint for AutoencoderError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::NotAMultiple { width, height, multiple, .. } => {
                let [width, height] = [width, height].map(|side| side / multiple * multiple);
                Some(format!("the nearest below are {width}x{height}"))
            }
            Self::Odd { .. } => {
                let side = "multiples of twice the spatial scale of the autoencoder";
                Some(format!("use an image whose sides are {side}"))
            }
            Self::StreamChanged { .. } => Some("start a new stream for another video".to_owned()),
            Self::Tensor(error) => hint::of(error),
            _ => None,
        }
    }
}

/// Result of encoding and decoding.
pub(super) type Result<T> = std::result::Result<T, AutoencoderError>;

/// Why a `config.json` does not describe an autoencoder that can be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AutoencoderConfigError {
    /// Not JSON, or a key of another type.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// Another class.
    #[error("_class_name is \"{found}\", expected \"{}\"", expected.join("\" or \""))]
    Class {
        /// The classes that are supported.
        expected: &'static [&'static str],
        /// The class in the file.
        found: String,
    },
    /// A value that does not fit the others or is not supported.
    #[error("{key} {reason}")]
    Value {
        /// The key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
}

//! What can be wrong with a picture.

use std::path::PathBuf;

use magcache_core::hint::{self, Hint};

use super::{MAX_FILE_BYTES, MAX_PIXELS, MAX_SIDE, picture::MAX_DECODER_BYTES};

/// Why a file could not be turned into a picture, or a picture into another size. `file` is the path as it
/// was given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PictureError {
    /// The system could not open or read the file.
    #[error("cannot read {}: {reason}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        reason: std::io::Error,
    },
    /// A file without content.
    #[error("{file} is empty: got 0 bytes, expected a picture")]
    Empty {
        /// The file.
        file: String,
    },
    /// A file longer than any picture that is accepted.
    #[error("{file} has more than {} MiB, the limit for a picture", MAX_FILE_BYTES >> 20)]
    LongFile {
        /// The file.
        file: String,
    },
    /// A file whose first bytes are not those of a picture.
    #[error("{file} is not a picture: it begins with {start}")]
    NotAPicture {
        /// The file.
        file: String,
        /// Its first bytes, as text if they are text.
        start: String,
    },
    /// A picture in an unsupported format, or variant of a format.
    #[error("{file} is a picture in {format}, which is not supported")]
    Unsupported {
        /// The file.
        file: String,
        /// The format, with the variant where the format itself is supported.
        format: String,
    },
    /// A picture with more pixels than are accepted; found in the header, before any pixel is decoded.
    #[error(
        "{file} is {width} x {height} pixels, at most {MAX_SIDE} on a side and {} million in all are accepted",
        MAX_PIXELS / 1_000_000
    )]
    TooLarge {
        /// The file.
        file: String,
        /// Columns.
        width: u64,
        /// Rows.
        height: u64,
    },
    /// A picture that would take too much memory to decode.
    #[error("{file} takes more than {} MiB to decode", MAX_DECODER_BYTES >> 20)]
    Memory {
        /// The file.
        file: String,
    },
    /// A file that ends in the middle of the picture.
    #[error("{file} is cut off: it ends after {bytes} bytes, in the middle of the picture")]
    Truncated {
        /// The file.
        file: String,
        /// Bytes in the file.
        bytes: usize,
    },
    /// A file whose content contradicts its format.
    #[error("{file} is damaged, its {format} data cannot be decoded: {reason}")]
    Damaged {
        /// The file.
        file: String,
        /// The format that its first bytes indicate.
        format: &'static str,
        /// The decoder's error.
        reason: String,
    },
    /// Pixels that do not fill a picture of the given size.
    #[error("{width} x {height} pixels in RGB take {} bytes, got {bytes}", width.saturating_mul(*height).saturating_mul(3))]
    Pixels {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
        /// Bytes given.
        bytes: usize,
    },
    /// A size that no picture can be scaled to.
    #[error("cannot scale a picture to {width} x {height} pixels, each side must be 1 to {MAX_SIDE}")]
    Target {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
    },
    /// The tensor library failed, for instance because memory ran out.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl Hint for PictureError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Empty { .. } | Self::Truncated { .. } | Self::Damaged { .. } => {
                "save or download it again".to_owned()
            }
            Self::NotAPicture { .. } => "give a PNG, JPEG, WebP, GIF, BMP or TIFF file".to_owned(),
            Self::Unsupported { .. } => "convert it to PNG or JPEG".to_owned(),
            Self::TooLarge { .. } => {
                "scale it down; no model here makes frames of more than 2 million pixels".to_owned()
            }
            Self::Memory { .. } => "scale it down or convert it to an ordinary PNG or JPEG".to_owned(),
            Self::Tensor(error) => return hint::of(error),
            _ => return None,
        })
    }
}

//! Why frames could not be written.

use std::io;
use std::path::{Path, PathBuf};

use magcache_core::hint::{self, Hint};

use super::Format;

/// What went wrong, with the path it concerns and, where the user can do something, a hint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MediaError {
    /// The name ends in something that no writer exists for.
    #[error("{path}: cannot write files that end in .{extension}")]
    UnknownExtension {
        /// What the user asked for.
        path: PathBuf,
        /// The ending, as typed.
        extension: String,
    },
    /// The format cannot hold a clip of this shape.
    #[error("{path}: {format} {limit}, got {got}")]
    Unsupported {
        /// What the user asked for.
        path: PathBuf,
        /// The format that its name chose.
        format: Format,
        /// What the format needs, as the end of a sentence that starts with its name.
        limit: String,
        /// What the clip has instead.
        got: String,
        /// What can be typed to get there.
        hint: &'static str,
    },
    /// A folder of frames would be mixed with what is already there.
    #[error("{path}: the folder is not empty")]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// The target exists and is of the other kind.
    #[error("{path}: is a {is}, a {needed} is to be written there")]
    WrongKind {
        /// What the user asked for.
        path: PathBuf,
        /// What lies there.
        is: &'static str,
        /// What was to be written.
        needed: &'static str,
    },
    /// The operating system refused.
    #[error("{path}: cannot {action}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The encoder refused a frame.
    #[error("{path}: cannot encode frame {frame}: {reason}")]
    Encode {
        /// The file being written.
        path: PathBuf,
        /// The frame, from 0.
        frame: usize,
        /// What the encoder said.
        reason: String,
    },
    /// The tensor is not a clip or an image.
    #[error("expected frames as [3, t, h, w] or an image as [3, h, w], got {got:?}")]
    Shape {
        /// The shape that came.
        got: Vec<usize>,
    },
    /// A frame holds values that are not numbers: the run went wrong before the writer.
    #[error("frame {frame} holds {count} values that are not numbers")]
    NotANumber {
        /// The frame, from 0.
        frame: usize,
        /// How many of its values are NaN.
        count: usize,
    },
    /// The frames are not those that the output was prepared for.
    #[error("{path}: was prepared for {expected}, got {got}")]
    Mismatch {
        /// The file being written.
        path: PathBuf,
        /// What [`Destination::prepare`](super::Destination::prepare) was told.
        expected: String,
        /// What came.
        got: String,
    },
    /// The tensor could not be read.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

magcache_core::hints!(MediaError);

impl Hint for MediaError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownExtension { .. } => Some(Format::NAMES.to_owned()),
            Self::Unsupported { hint, .. } => Some((*hint).to_owned()),
            Self::NotEmpty { .. } => Some("name a new folder, or remove what is in it".to_owned()),
            Self::WrongKind { .. } => Some("choose another name".to_owned()),
            Self::Tensor(error) => hint::of(error),
            _ => None,
        }
    }
}

impl MediaError {
    /// Wraps a refusal of the operating system: `result.map_err(MediaError::io(path, "create the folder"))`.
    pub(super) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, action, source }
    }

    /// Wraps a refusal of an encoder.
    pub(super) fn encode(path: &Path, frame: usize, reason: impl ToString) -> Self {
        Self::Encode { path: path.to_owned(), frame, reason: reason.to_string() }
    }
}

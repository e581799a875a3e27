//! Why frames could not be written.

use std::io;
use std::path::{Path, PathBuf};

use magcache_audio::AudioError;
use magcache_core::hint::{self, Hint};
use magcache_models::image::PictureError;

use super::Format;

/// What went wrong, with the path and, if the user can do something about it, a hint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MediaError {
    /// The extension of the name belongs to no known format.
    #[error("{path}: cannot write files that end in .{extension}")]
    UnknownExtension {
        /// The requested path.
        path: PathBuf,
        /// The extension, as typed.
        extension: String,
    },
    /// The format cannot hold a video of this shape.
    #[error("{path}: {format} {limit}, got {got}")]
    Unsupported {
        /// The requested path.
        path: PathBuf,
        /// The format chosen by the name.
        format: Format,
        /// What the format needs; completes a sentence that starts with its name.
        limit: String,
        /// What the video has instead.
        got: String,
        /// What to type to get there.
        hint: &'static str,
    },
    /// The folder is not empty, so new frames would be mixed with what is there.
    #[error("{path}: the folder is not empty")]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// The path exists and is of the other kind.
    #[error("{path}: is a {is}, a {needed} is to be written there")]
    WrongKind {
        /// The requested path.
        path: PathBuf,
        /// What exists there.
        is: &'static str,
        /// What was to be written.
        needed: &'static str,
    },
    /// The operating system reported an error.
    #[error("{path}: cannot {action}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The encoder rejected a frame.
    #[error("{path}: cannot encode frame {frame}: {reason}")]
    Encode {
        /// The file being written.
        path: PathBuf,
        /// Index of the frame, from 0.
        frame: usize,
        /// What the encoder said.
        reason: String,
    },
    /// The tensor is neither a video nor an image.
    #[error("expected frames as [3, t, h, w] or an image as [3, h, w], got {got:?}")]
    Shape {
        /// The tensor's shape.
        got: Vec<usize>,
    },
    /// A frame contains NaN: the run itself went wrong.
    #[error("frame {frame} holds {count} values that are not numbers")]
    NotANumber {
        /// Index of the frame, from 0.
        frame: usize,
        /// Number of its values that are NaN.
        count: usize,
    },
    /// The frames do not match what the output was prepared for.
    #[error("{path}: was prepared for {expected}, got {got}")]
    Mismatch {
        /// The file being written.
        path: PathBuf,
        /// What [`Destination::prepare`](super::Destination::prepare) was given.
        expected: String,
        /// The actual frames.
        got: String,
    },
    /// The tensor could not be read.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// What was to be read as a video is none, or one of a form that is not read.
    #[error("{path} is not a video that can be read: {reason}")]
    NotAVideo {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A video that ends before its own index says.
    #[error("{path} is cut off: its index says {promised:.3} s, only {there:.3} s are there")]
    CutOff {
        /// The file.
        path: PathBuf,
        /// How long it says it is.
        promised: f64,
        /// How long it is.
        there: f64,
    },
    /// A frame of a video that could not be decoded.
    #[error("{path}: cannot decode frame {frame}: {reason}")]
    Decode {
        /// The file being read.
        path: PathBuf,
        /// Index of the frame, from 0.
        frame: usize,
        /// What the decoder said.
        reason: String,
    },
    /// A picture in a folder of frames could not be read.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// The sound could not be read or cut.
    #[error(transparent)]
    Sound(#[from] AudioError),
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
            Self::Sound(error) => error.hint(),
            Self::Picture(error) => hint::of(error),
            Self::NotAVideo { .. } => {
                Some("name an .mp4 file with H.264, a .gif file, or a folder of pictures".to_owned())
            }
            Self::CutOff { .. } | Self::Decode { .. } => {
                Some("copy it again, or encode it again as H.264".to_owned())
            }
            _ => None,
        }
    }
}

impl MediaError {
    /// Wraps an error of the operating system: `result.map_err(MediaError::io(path, "create the folder"))`.
    pub(super) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, action, source }
    }

    /// Wraps an error of an encoder.
    pub(super) fn encode(path: &Path, frame: usize, reason: impl ToString) -> Self {
        Self::Encode { path: path.to_owned(), frame, reason: reason.to_string() }
    }
}

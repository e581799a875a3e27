//! The sound of a video: a track in an MP4, a WAV file beside anything else.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use magcache_audio::{SoundTrack, wav};

use super::staging::StagedFile;
use super::{Format, MediaError};

/// A piece of a recording in the form that the output needs; it is cut before the run.
#[derive(Clone, Debug)]
pub(super) enum Sound {
    Track(Arc<SoundTrack>),
    Beside { path: PathBuf, content: Arc<Vec<u8>> },
}

/// Where the sound of `output` goes if a file of that format holds none: `a.wav` for `a.gif`, for `a.png` and
/// for the folder `a`. None for an MP4, and for names that are not accepted.
pub fn sound_beside(output: &Path) -> Option<PathBuf> {
    beside(output, Format::of(output).ok()?)
}

fn beside(output: &Path, format: Format) -> Option<PathBuf> {
    match format {
        Format::Mp4 => None,
        Format::Folder => {
            // Without a trailing slash; a folder's name may have a dot.
            let mut path = output.components().collect::<PathBuf>().into_os_string();
            path.push(".wav");
            Some(path.into())
        }
        Format::Gif | Format::Png | Format::WebP => Some(output.with_extension("wav")),
    }
}

impl Sound {
    /// At most `seconds` of a recording from `start` on, for `output`.
    pub(super) fn cut(
        (output, format): (&Path, Format),
        recording: &Path,
        (start, seconds): (f64, f64),
    ) -> Result<Self, MediaError> {
        let Some(path) = beside(output, format) else {
            return Ok(Self::Track(Arc::new(SoundTrack::cut(recording, start, seconds)?)));
        };
        if path.is_dir() {
            return Err(MediaError::WrongKind { path, is: "folder", needed: "file" });
        }
        Ok(Self::Beside { path, content: Arc::new(wav::cut(recording, start, seconds)?) })
    }

    pub(super) fn track(&self) -> Option<&Arc<SoundTrack>> {
        match self {
            Self::Track(track) => Some(track),
            Self::Beside { .. } => None,
        }
    }

    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::Track(_) => None,
            Self::Beside { path, .. } => Some(path),
        }
    }

    /// The file beside the output, complete but without its name.
    pub(super) fn staged(&self) -> Result<Option<StagedFile>, MediaError> {
        let Self::Beside { path, content } = self else { return Ok(None) };
        let mut file = StagedFile::create(path)?;
        file.write_all(content).map_err(MediaError::io(path, "write"))?;
        Ok(Some(file))
    }
}

#[cfg(test)]
mod tests;

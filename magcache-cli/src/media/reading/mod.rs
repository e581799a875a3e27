//! Videos as pictures, one by one.

mod folder;
mod gif;
mod h264;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use magcache_models::image::{MAX_PIXELS, Picture};

use super::MediaError;

/// The frames of a video in the order in which they are shown: H.264 in an MP4 or MOV file, an animated GIF,
/// or a folder of pictures in the order of their names. One frame is in memory at a time, for H.264 as many
/// as the video shows in another order than it stores.
///
/// Opening it finds the frames without decoding them, so that a file that ends early is refused before a run.
///
/// Colours are taken to be of limited range, in the matrix that players guess from the size. Edit lists and
/// rotations of MP4 files are not applied, and frames are taken to be equally long.
pub struct VideoReader {
    fps: Option<f64>,
    frames: usize,
    pictures: Box<dyn Iterator<Item = Result<Picture, MediaError>>>,
}

impl VideoReader {
    /// Opens a file or a folder; the content decides, not the name.
    ///
    /// Errors: nothing is there, it is not a video, its codec is not H.264, it ends before its last frame, it
    /// has no frames.
    pub fn open(path: &Path) -> Result<Self, MediaError> {
        if path.is_dir() {
            return folder::open(path);
        }
        let mut start = Vec::new();
        let file = File::open(path).map_err(MediaError::io(path, "open"))?;
        file.take(12).read_to_end(&mut start).map_err(MediaError::io(path, "read"))?;
        match (start.get(..4), start.get(4..8)) {
            (Some(b"GIF8"), _) => gif::open(path),
            // The boxes that such files begin with.
            (_, Some(b"ftyp" | b"moov" | b"mdat" | b"wide" | b"free" | b"skip")) => h264::open(path),
            _ => Err(not_a_video(path, "it begins like no format that is read")),
        }
    }

    /// Frames per second, on average; a folder does not say.
    pub fn fps(&self) -> Option<f64> {
        self.fps
    }

    /// Number of frames, at least 1.
    pub fn frames(&self) -> usize {
        self.frames
    }
}

/// Frames of any size each. After an error there are no more that can be trusted.
impl Iterator for VideoReader {
    type Item = Result<Picture, MediaError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.pictures.next()
    }
}

impl fmt::Debug for VideoReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VideoReader")
            .field("fps", &self.fps)
            .field("frames", &self.frames)
            .finish_non_exhaustive()
    }
}

fn not_a_video(path: &Path, reason: impl ToString) -> MediaError {
    MediaError::NotAVideo { path: path.to_owned(), reason: reason.to_string() }
}

fn undecoded(path: &Path, frame: usize, reason: impl ToString) -> MediaError {
    MediaError::Decode { path: path.to_owned(), frame, reason: reason.to_string() }
}

/// Refuses frames that would take too much memory.
fn check_size(path: &Path, width: usize, height: usize) -> Result<(), MediaError> {
    if width.saturating_mul(height) > MAX_PIXELS {
        let reason = format!("its frames have {width}x{height} pixels, expected at most {MAX_PIXELS} in all");
        return Err(not_a_video(path, reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests;

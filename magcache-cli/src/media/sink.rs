//! The interface of all formats.

use image::RgbImage;

use super::MediaError;

/// Writes frames in one format. If dropped without `finish`, it removes what it wrote.
pub(super) trait FrameSink {
    /// Adds the next frame, which has the clip's size.
    fn push(&mut self, frame: &RgbImage) -> Result<(), MediaError>;
    /// Completes the output and renames it to its final name.
    fn finish(self: Box<Self>) -> Result<(), MediaError>;
}

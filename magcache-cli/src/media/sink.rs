//! What every format has in common.

use image::RgbImage;

use super::MediaError;

/// Takes the frames of one format. Dropped without `finish`, it removes what it wrote.
pub(super) trait FrameSink {
    /// Adds the next frame; its size is that of the clip.
    fn push(&mut self, frame: &RgbImage) -> Result<(), MediaError>;
    /// Completes the output and gives it its name.
    fn finish(self: Box<Self>) -> Result<(), MediaError>;
}

//! A video that is given for its movements.

use std::{error::Error, fmt};

use crate::image::Picture;

/// A video whose movements are repeated. Its frames are read when they are needed, those of one clip at a
/// time.
pub trait PoseVideo: fmt::Debug + Send + Sync {
    /// Frames per second.
    fn fps(&self) -> f64;

    /// Number of frames.
    fn frames(&self) -> usize;

    /// Some of its frames, in ascending order.
    ///
    /// # Errors
    /// A file that cannot be read, or no longer.
    fn read(&self, frames: &[usize]) -> Result<Vec<Picture>, Box<dyn Error + Send + Sync>>;
}

/// The same video, not an equal one.
impl PartialEq for dyn PoseVideo {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::addr_eq(self, other)
    }
}

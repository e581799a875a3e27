//! What a run will produce, known before it starts.

/// Size, length and speed of a video. An image is a clip of one frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clip {
    /// Pixels per row.
    pub width: u32,
    /// Rows per frame.
    pub height: u32,
    /// Number of frames; all of them are written.
    pub frames: usize,
    /// Frames per second; MP4 is exact to a thousandth, GIF to a hundredth of a second over the whole clip.
    pub fps: f64,
}

impl Clip {
    /// The time at which frame `index` is shown, in seconds.
    pub fn time_of(&self, index: usize) -> f64 {
        index as f64 / self.fps
    }
}

//! Pose videos: which of their frames lead a clip, and their pixels.

use candle_core::{Device, Tensor};

use super::{FPS, Fit};
use crate::image::{Picture, PictureError};

/// Distance between the frames of a pose video that are used: `max(1, round(fps / 16))`, ties to even. The
/// motion keeps its speed at multiples of 16 only; at 24 frames per second it is 4/3 as fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoseStep(usize);

impl PoseStep {
    /// For a video of `fps` frames per second.
    pub fn new(fps: f64) -> Self {
        Self(((fps / FPS as f64).round_ties_even() as usize).max(1))
    }

    /// Frames from one that is used to the next.
    pub fn get(self) -> usize {
        self.0
    }

    /// The frames that are used of a video of `total` frames, in order, at most `most`.
    pub fn frames(self, total: usize, most: usize) -> impl ExactSizeIterator<Item = usize> {
        let count = total.div_ceil(self.0).min(most);
        (0..count).map(move |i| i * self.0)
    }

    /// Whether frame `frame` of the video is used, for readers that pass over the frames.
    pub fn uses(self, frame: usize) -> bool {
        frame.is_multiple_of(self.0)
    }
}

/// What is encoded for one clip, f32 `[1, 3, 1 + infer_frames, height, width]` in -1..=1: the clip's first
/// frame twice, then the others; -1 where the video has ended. The latent of the first is dropped.
///
/// `frames` are those of this clip, at most `infer_frames`, of any size each.
///
/// # Errors
/// As [`Fit::frame`].
pub fn pose_pixels(
    frames: &[Picture],
    infer_frames: usize,
    size: (usize, usize),
    device: &Device,
) -> Result<Tensor, PictureError> {
    let mut pixels = Vec::with_capacity(1 + infer_frames);
    for frame in frames.iter().take(infer_frames) {
        let fitted = Fit::new(frame.height(), frame.width(), size).frame(frame, device)?.unsqueeze(2)?;
        if pixels.is_empty() {
            pixels.push(fitted.clone());
        }
        pixels.push(fitted);
    }
    let missing = 1 + infer_frames - pixels.len();
    if missing > 0 {
        pixels.push(Tensor::full(-1f32, (1, 3, missing, size.0, size.1), device)?);
    }
    Ok(Tensor::cat(&pixels, 2)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tie_goes_to_the_even_step() {
        let steps = [8.0, 16.0, 23.976, 24.0, 25.0, 40.0, 56.0, 60.0, 0.0, f64::NAN]
            .map(|fps| PoseStep::new(fps).get());
        assert_eq!(steps, [1, 1, 1, 2, 2, 2, 4, 4, 1, 1]);
        let step = PoseStep::new(24.0);
        assert_eq!(step.frames(5, 80).collect::<Vec<_>>(), [0, 2, 4]);
        assert_eq!(step.frames(500, 2).collect::<Vec<_>>(), [0, 2]);
        assert!(step.frames(0, 80).next().is_none() && step.uses(4) && !step.uses(5));
    }

    #[test]
    fn the_first_frame_is_doubled_and_missing_ones_are_minus_one() -> Result<(), PictureError> {
        let frame = |value: u8| Picture::from_rgb8(2, 2, vec![value; 12]);
        let firsts = |pixels: &Tensor| {
            pixels.narrow(1, 0, 1)?.narrow(3, 0, 1)?.narrow(4, 0, 1)?.flatten_all()?.to_vec1::<f32>()
        };
        let pixels = pose_pixels(&[frame(255)?, frame(51)?], 4, (2, 2), &Device::Cpu)?;
        assert_eq!(pixels.dims(), [1, 3, 5, 2, 2]);
        assert_eq!(firsts(&pixels)?, [1.0, 1.0, 51.0 / 255.0 * 2.0 - 1.0, -1.0, -1.0]);
        assert_eq!(firsts(&pose_pixels(&[], 2, (2, 2), &Device::Cpu)?)?, [-1.0; 3]);
        // Grey beside a frame that is too narrow.
        let pixels = pose_pixels(&[frame(255)?], 1, (2, 6), &Device::Cpu)?.narrow(2, 0, 1)?;
        assert_eq!(pixels.flatten_all()?.to_vec1::<f32>()?[..6], [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
        Ok(())
    }
}

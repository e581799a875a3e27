//! Frames and latents of clips, and the window of frames that one clip leaves to the next.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor};

/// Frames per second of the video.
pub const FPS: usize = 16;

/// Frames that a clip sees of the video before it.
pub const MOTION_FRAMES: usize = 73;

/// Frames per latent but the first.
const SCALE: usize = 4;

/// Frames at the end of the first window that show the picture, if the video starts from it.
const PICTURES: usize = 6;

/// Frames that the first clip loses at its start unless it starts from the picture: what the autoencoder
/// makes of the reference latent in front.
const LOST: usize = 3;

/// Frames of every clip and of the window before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClipFrames {
    /// Frames that a clip adds to the video.
    pub infer_frames: usize,
    /// Frames before it that it sees, [`MOTION_FRAMES`] in the published model.
    pub motion_frames: usize,
}

impl ClipFrames {
    /// Why no clips of this length can be made, if so.
    pub fn fault(&self) -> Option<String> {
        let frames = self.infer_frames;
        let fits = frames > 0 && frames.is_multiple_of(SCALE);
        (!fits).then(|| format!("{frames} frames per clip, expected a multiple of {SCALE}"))
    }

    /// Latents of the window.
    pub fn motion_latents(&self) -> usize {
        self.motion_frames.div_ceil(SCALE)
    }

    /// Latents of a clip.
    pub fn latents(&self) -> usize {
        (self.infer_frames + SCALE - 1 + self.motion_frames) / SCALE - self.motion_latents()
    }

    /// Whether clip `clip` sees no window: the first, unless the video starts from the picture.
    pub fn is_without_motion(clip: usize, start_from_picture: bool) -> bool {
        clip == 0 && !start_from_picture
    }

    /// Latents that are decoded together for a clip: those of the window, or the picture's one, and its own.
    pub fn decoded_latents(&self, without_motion: bool) -> usize {
        let before = if without_motion { 1 } else { self.motion_latents() };
        before + self.latents()
    }

    /// Which of `decoded` frames belong to the video: the last [`Self::infer_frames`]; without motion, not
    /// the first three of these.
    pub fn kept(&self, decoded: usize, without_motion: bool) -> Range<usize> {
        let lost = if without_motion { LOST.min(self.infer_frames) } else { 0 };
        (decoded.saturating_sub(self.infer_frames) + lost).min(decoded)..decoded
    }

    /// Frames that clip `clip` adds to the video.
    pub fn of_clip(&self, clip: usize, start_from_picture: bool) -> usize {
        let lost = if Self::is_without_motion(clip, start_from_picture) { LOST } else { 0 };
        self.infer_frames.saturating_sub(lost)
    }

    /// Frames of a video of `clips` clips.
    pub fn total(&self, clips: usize, start_from_picture: bool) -> usize {
        (0..clips.min(1)).map(|clip| self.of_clip(clip, start_from_picture)).sum::<usize>()
            + clips.saturating_sub(1) * self.infer_frames
    }

    /// Frames of the window that `frames` new ones push out.
    pub fn replaced(&self, frames: usize) -> usize {
        frames.min(self.motion_frames)
    }
}

/// The window before the first clip, f32 `[1, 3, motion_frames, height, width]`: grey, and at the end the
/// picture `[1, 3, height, width]` in -1..=1, if the video starts from it.
pub fn first_window(
    frames: &ClipFrames,
    (height, width): (usize, usize),
    picture: Option<&Tensor>,
    device: &Device,
) -> Result<Tensor> {
    let grey = |count: usize| Tensor::zeros((1, 3, count, height, width), DType::F32, device);
    let Some(picture) = picture else { return grey(frames.motion_frames) };
    let shown = PICTURES.min(frames.motion_frames);
    let picture = picture.unsqueeze(2)?.expand((1, 3, shown, height, width))?;
    Tensor::cat(&[grey(frames.motion_frames - shown)?, picture], 2)
}

/// The window after `frames` `[1, 3, frames, height, width]` were added to the video: moved on by as many
/// frames, all of it if there are enough.
pub fn next_window(window: &Tensor, frames: &Tensor) -> Result<Tensor> {
    let (length, added) = (window.dim(2)?, frames.dim(2)?);
    let replaced = ClipFrames { infer_frames: added, motion_frames: length }.replaced(added);
    let kept = window.narrow(2, replaced, length - replaced)?;
    Tensor::cat(&[kept, frames.narrow(2, added - replaced, replaced)?], 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLISHED: ClipFrames = ClipFrames { infer_frames: 80, motion_frames: MOTION_FRAMES };

    #[test]
    fn the_published_clip() {
        assert_eq!((PUBLISHED.motion_latents(), PUBLISHED.latents()), (19, 20));
        assert_eq!((PUBLISHED.decoded_latents(true), PUBLISHED.decoded_latents(false)), (21, 39));
        assert_eq!((PUBLISHED.kept(81, true), PUBLISHED.kept(153, false)), (4..81, 73..153));
        let totals = [0, 1, 2, 3].map(|clips| (PUBLISHED.total(clips, false), PUBLISHED.total(clips, true)));
        assert_eq!(totals, [(0, 0), (77, 80), (157, 160), (237, 240)]);
        let fault = |infer_frames| ClipFrames { infer_frames, ..PUBLISHED }.fault();
        assert!(fault(48).is_none() && fault(0).is_some());
        assert_eq!(fault(81).as_deref(), Some("81 frames per clip, expected a multiple of 4"));
    }

    /// The first value of every frame.
    fn firsts(window: &Tensor) -> Vec<f32> {
        let frames = window.narrow(1, 0, 1).and_then(|w| w.narrow(3, 0, 1)?.narrow(4, 0, 1)?.flatten_all());
        frames.and_then(|frames| frames.to_vec1()).expect("a window")
    }

    #[test]
    fn a_short_clip_moves_the_window_a_long_one_replaces_it() -> Result<()> {
        let frames = ClipFrames { infer_frames: 4, motion_frames: 9 };
        let clip = |first: u32, count: u32| {
            let values: Vec<f32> = (first..first + count).map(|i| i as f32).collect();
            Tensor::new(values, &Device::Cpu)?.reshape((1, 1, count as usize, 1, 1))?.expand((
                1,
                3,
                count as usize,
                2,
                2,
            ))
        };
        let picture = Tensor::full(-1f32, (1, 3, 2, 2), &Device::Cpu)?;
        let from_picture = first_window(&frames, (2, 2), Some(&picture), &Device::Cpu)?;
        assert_eq!(firsts(&from_picture), [0.0, 0.0, 0.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0]);
        let mut window = first_window(&frames, (2, 2), None, &Device::Cpu)?;
        assert_eq!(window.dims(), [1, 3, 9, 2, 2]);
        window = next_window(&window, &clip(1, 1)?)?;
        assert_eq!(firsts(&window), [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
        for first in [2, 6] {
            window = next_window(&window, &clip(first, 4)?)?;
        }
        assert_eq!(firsts(&window), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
        window = next_window(&window, &clip(10, 12)?)?;
        assert_eq!(firsts(&window), [13.0, 14.0, 15.0, 16.0, 17.0, 18.0, 19.0, 20.0, 21.0]);
        Ok(())
    }
}

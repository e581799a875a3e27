//! Which feature of a recording each frame of the video hears.

use candle_core::{Result, Tensor};

use super::FEATURES_PER_SECOND;

/// Features of a recording in the order of the video's frames, clip after clip.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AudioWindows {
    features: usize,
    /// Seconds per frame of the video.
    duration: f64,
    infer_frames: usize,
    clips: usize,
}

impl AudioWindows {
    /// For `features` features, 30 a second, and clips of `infer_frames` frames, `fps` a second: as many
    /// clips as the recording fills, and one more, of which only the start may be heard, or nothing.
    pub fn new(features: usize, fps: usize, infer_frames: usize) -> Self {
        let (fps, rate) = (fps.max(1) as f64, FEATURES_PER_SECOND as f64);
        let clips = (features as f64 / (infer_frames.max(1) as f64 * (rate / fps))) as usize + 1;
        Self { features, duration: 1.0 / fps, infer_frames, clips }
    }

    /// With at most `clips` clips.
    #[must_use]
    pub fn at_most(self, clips: usize) -> Self {
        Self { clips: self.clips.min(clips), ..self }
    }

    /// Clips.
    pub fn clips(&self) -> usize {
        self.clips
    }

    /// Frames of all clips.
    pub fn frames(&self) -> usize {
        self.clips * self.infer_frames
    }

    /// The feature of frame `frame`, ties to even; `None` behind the end of the recording, where there are
    /// zeros.
    pub fn feature(&self, frame: usize) -> Option<usize> {
        // In the order of the official code: at 12 frames a second another order rounds another way.
        let index = (frame as f64 * self.duration * FEATURES_PER_SECOND as f64).round_ties_even() as usize;
        (index < self.features).then_some(index)
    }

    /// `[features, channels]` to `[frames, channels]`.
    pub fn gather(&self, features: &Tensor) -> Result<Tensor> {
        let (count, channels) = features.dims2()?;
        if count != self.features {
            candle_core::bail!("{count} audio features, expected {}", self.features);
        }
        let zeros = Tensor::zeros((1, channels), features.dtype(), features.device())?;
        let rows = (0..self.frames()).map(|frame| self.feature(frame).unwrap_or(count) as u32);
        let rows = Tensor::from_iter(rows, features.device())?;
        Tensor::cat(&[features, &zeros], 0)?.index_select(&rows, 0)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn a_tie_goes_to_the_even_feature_and_the_end_is_silent() -> Result<()> {
        let windows = AudioWindows::new(40, 16, 8);
        assert_eq!((windows.clips(), windows.frames()), (3, 24));
        assert_eq!(
            [0, 1, 4, 12, 20, 21, 22].map(|k| windows.feature(k)),
            [0, 2, 8, 22, 38, 39, 41].map(|i| (i < 40).then_some(i))
        );
        let features = Tensor::arange(1f32, 41.0, &Device::Cpu)?.reshape((40, 1))?;
        let heard = windows.gather(&features)?.flatten_all()?.to_vec1::<f32>()?;
        assert_eq!(heard[20..], [39.0, 40.0, 0.0, 0.0]);
        assert!(windows.gather(&features.narrow(0, 0, 39)?).is_err());
        assert_eq!((windows.at_most(2).frames(), windows.at_most(9).clips()), (16, 3));
        Ok(())
    }

    #[test]
    fn a_recording_that_fills_its_clips_gets_one_more() {
        let clips =
            [0, 1, 149, 150, 151, 299, 300].map(|features| AudioWindows::new(features, 16, 80).clips());
        assert_eq!(clips, [1, 1, 1, 2, 2, 2, 3]);
    }
}

//! What the transformer hears of a recording.

use candle_core::{DType, Result, Tensor};

use super::{AudioWindows, FPS};
use crate::wav2vec2::{Wav2Vec2Encoder, Wav2Vec2Processor, WaveformError};

/// Features per second of a recording.
pub const FEATURES_PER_SECOND: usize = 30;

/// Hidden states per second of the encoder, which count as exact though the last one is missing.
const STATES_PER_SECOND: f64 = 50.0;

/// Features of a recording with so many hidden states.
///
/// As the official code computes it, divided first and truncated: one less than `states * 30 / 50` at 205,
/// 410, 820 and 133 other counts below 30,000.
pub fn feature_frames(states: usize) -> usize {
    (states as f64 / STATES_PER_SECOND * FEATURES_PER_SECOND as f64) as usize
}

/// A hidden state `[1, states, channels]` at 30 per second, f32 `[features, channels]`: linear in time, the
/// first and the last state keep their places.
pub fn features(hidden_state: &Tensor) -> Result<Tensor> {
    let hidden_state = hidden_state.squeeze(0)?.to_dtype(DType::F32)?;
    let (states, device) = (hidden_state.dim(0)?, hidden_state.device());
    let count = feature_frames(states);
    let last = states.saturating_sub(1);
    let step = if count > 1 { last as f64 / (count - 1) as f64 } else { 0.0 };
    let places = || (0..count).map(|i| i as f64 * step);
    let before = |place: f64| (place as usize).min(last);
    let at = |more: usize| {
        let rows = places().map(|place| (before(place) + more).min(last) as u32);
        hidden_state.index_select(&Tensor::from_iter(rows, device)?, 0)
    };
    let shares = places().map(|place| (place - before(place) as f64) as f32);
    let shares = Tensor::from_iter(shares, device)?.reshape((count, 1))?;
    let others = (1.0 - &shares)?;
    at(0)?.broadcast_mul(&others)? + at(1)?.broadcast_mul(&shares)?
}

/// All hidden states of a recording at the video's rate, in windows of one clip each.
#[derive(Clone, Debug)]
pub struct AudioEmbedding {
    /// `[1, layers, channels, frames]`.
    values: Tensor,
    windows: AudioWindows,
    infer_frames: usize,
}

impl AudioEmbedding {
    /// Encodes a mono recording at 16 kHz as a whole, for clips of `infer_frames` frames; `most` limits their
    /// number.
    ///
    /// Each layer's states are brought to the video's rate as soon as they are computed, so that only what
    /// the clips hear is kept: 8 MB per clip of 80 frames in the published model.
    ///
    /// # Errors
    /// A recording without a single feature, samples that are no numbers, and those of
    /// [`Wav2Vec2Encoder::each_state`].
    pub fn encode(
        processor: &Wav2Vec2Processor,
        encoder: &Wav2Vec2Encoder,
        waveform: &[f32],
        infer_frames: usize,
        most: Option<usize>,
    ) -> std::result::Result<Self, WaveformError> {
        let count = feature_frames(encoder.config().states(waveform.len()));
        if count == 0 {
            let least = encoder.config().samples(2);
            return Err(WaveformError::TooShort { samples: waveform.len(), least });
        }
        let windows = AudioWindows::new(count, FPS, infer_frames);
        let windows = most.map_or(windows, |most| windows.at_most(most));
        let input_values = processor.input_values(waveform, encoder.device())?;
        let mut layers = Vec::new();
        encoder.each_state(&input_values, |_, state| {
            layers.push(windows.gather(&features(state)?)?.t()?.contiguous()?);
            Ok(())
        })?;
        Ok(Self { values: Tensor::stack(&layers, 0)?.unsqueeze(0)?, windows, infer_frames })
    }

    /// Clips of the video.
    pub fn clips(&self) -> usize {
        self.windows.clips()
    }

    /// f32 `[1, layers, channels, frames of all clips]`, one layer more than the encoder has.
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// The part of clip `clip`, `[1, layers, channels, infer_frames]`.
    ///
    /// # Errors
    /// A clip beyond the last.
    pub fn clip(&self, clip: usize) -> Result<Tensor> {
        self.values.narrow(3, clip * self.infer_frames, self.infer_frames)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn the_truncated_count_loses_a_feature_now_and_then() {
        let odd: Vec<usize> = (1..=30_000).filter(|t| feature_frames(*t) != t * 30 / 50).collect();
        assert_eq!((&odd[..5], odd.len()), (&[205, 410, 820, 845, 1615][..], 136));
    }

    #[test]
    fn the_ends_keep_their_places() -> Result<()> {
        let of = |states: usize| {
            let state = Tensor::arange(0f32, states as f32, &Device::Cpu)?.reshape((1, states, 1))?;
            features(&state)?.flatten_all()?.to_vec1::<f32>()
        };
        assert_eq!(of(5)?, [0.0, 2.0, 4.0]);
        assert_eq!((of(1)?, of(2)?, of(3)?), (vec![], vec![0.0], vec![0.0]));
        let many = of(9000)?;
        assert_eq!((many.len(), many[0], many[5399]), (5400, 0.0, 8999.0));
        Ok(())
    }
}

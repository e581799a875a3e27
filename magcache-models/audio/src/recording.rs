//! Whole recordings in memory.

use std::path::Path;

use crate::{AudioError, Resampler, SoundFile, mix, resample};

/// Most samples of one recording that are held in memory, over all channels: 1 GiB, or four and a half hours
/// of one channel at 16 kHz.
pub const MAX_SAMPLES: usize = 1 << 28;

/// A recording as samples in [-1, 1], or beyond where the file has such values.
#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    /// Samples per second.
    pub rate: u32,
    /// Number of channels, at least 1.
    pub channels: usize,
    /// One sample of each channel in turns: `[frames, channels]`.
    pub samples: Vec<f32>,
}

impl Recording {
    /// Reads a file, or its first `most` seconds.
    ///
    /// Errors: those of [`SoundFile`]; more than [`MAX_SAMPLES`].
    pub fn read(path: &Path, most: Option<f64>) -> Result<Self, AudioError> {
        let mut recording = Self { rate: 0, channels: 0, samples: Vec::new() };
        let samples = &mut recording.samples;
        let (rate, channels) = read_blocks(path, most, &mut |samples_of, _, channels| {
            samples.extend_from_slice(samples_of);
            Memory { samples: samples.len(), per_frame: channels as f64 }
        })?;
        (recording.rate, recording.channels) = (rate, channels);
        Ok(recording)
    }

    /// Length in seconds.
    pub fn seconds(&self) -> f64 {
        self.samples.len() as f64 / (f64::from(self.rate) * self.channels as f64)
    }

    /// The mean of all channels.
    pub fn mono(&self) -> Vec<f32> {
        let mut out = Vec::new();
        mix::mono(&self.samples, self.channels, &mut out);
        out
    }

    /// The mean of all channels at another rate; channels are mixed before resampling. [`read_mono`] does the
    /// same without holding the recording.
    pub fn mono_at(&self, rate: u32) -> Vec<f32> {
        resample(&self.mono(), self.rate, rate)
    }
}

/// One channel at `rate` samples per second, of a file or of its first `most` seconds: the mean of all
/// channels, *then* resampled ([`Resampler`]), `ceil(samples * rate / rate of the file)` samples. A file of
/// that rate stays as it is. Only the result is held in memory: three hours at 16 kHz are 0.7 GB.
///
/// Errors: those of [`SoundFile`]; more than [`MAX_SAMPLES`].
pub fn read_mono(path: &Path, rate: u32, most: Option<f64>) -> Result<Vec<f32>, AudioError> {
    let (mut mixed, mut out) = (Vec::new(), Vec::new());
    let mut resampler: Option<Resampler> = None;
    read_blocks(path, most, &mut |samples, from, channels| {
        mixed.clear();
        mix::mono(samples, channels, &mut mixed);
        let resampler = resampler.get_or_insert_with(|| Resampler::new(from, rate));
        resampler.push(&mixed, &mut out);
        Memory { samples: out.len(), per_frame: f64::from(rate) / f64::from(from) }
    })?;
    if let Some(resampler) = resampler {
        resampler.finish(&mut out);
    }
    Ok(out)
}

/// What a reader holds.
struct Memory {
    samples: usize,
    /// Samples that it holds for each frame of the file.
    per_frame: f64,
}

/// Takes the samples of a block, the rate and the number of channels.
type Take<'a> = &'a mut dyn FnMut(&[f32], u32, usize) -> Memory;

/// Gives the blocks of a file to `take`; returns the rate and the number of channels.
fn read_blocks(path: &Path, most: Option<f64>, take: Take<'_>) -> Result<(u32, usize), AudioError> {
    let mut file = SoundFile::open(path)?;
    // What a header promises is refused before it is read.
    let coming = file.seconds().unwrap_or(0.0).min(most.unwrap_or(f64::INFINITY));
    let mut frames = 0u64;
    while file.next_block()?.is_some() {
        let (rate, channels) = (file.rate(), file.channels());
        let samples = &file.block().samples;
        let left = most.map_or(u64::MAX, |most| frames_in(most, rate) - frames);
        let there = (samples.len() / channels) as u64;
        let taken = there.min(left);
        frames += taken;
        let held = take(&samples[..taken as usize * channels], rate, channels);
        let seconds = MAX_SAMPLES as f64 / (held.per_frame * f64::from(rate));
        if held.samples > MAX_SAMPLES || coming > seconds {
            return Err(AudioError::TooLong { path: path.to_owned(), seconds });
        }
        if taken < there || left == taken {
            break;
        }
    }
    Ok((file.rate(), file.channels()))
}

/// Samples of a channel in so many seconds, to the nearest.
pub(crate) fn frames_in(seconds: f64, rate: u32) -> u64 {
    (seconds.max(0.0) * f64::from(rate)).round() as u64
}

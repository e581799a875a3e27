//! A part of a file as samples of one or two channels, to be written again.

use std::path::Path;

use crate::{AudioError, MAX_SAMPLES, SoundFile, mix, recording::frames_in};

/// One or two planes of equal length, at least one sample.
pub(crate) struct Piece {
    pub(crate) rate: u32,
    pub(crate) planes: Vec<Vec<f32>>,
}

/// Errors: the place or the length is no time.
pub(crate) fn check(path: &Path, start: f64, seconds: f64) -> Result<(), AudioError> {
    let time = |seconds: f64| seconds.is_finite() && seconds >= 0.0;
    if time(start) && time(seconds) && seconds > 0.0 {
        return Ok(());
    }
    Err(AudioError::BadPiece { path: path.to_owned(), start, seconds })
}

impl Piece {
    /// Reads at most `seconds` from `start` on; what lies before it is decoded and not kept.
    pub(crate) fn read(path: &Path, start: f64, seconds: f64) -> Result<Self, AudioError> {
        check(path, start, seconds)?;
        let mut file = SoundFile::open(path)?;
        let coming = (file.seconds().unwrap_or(0.0) - start).min(seconds);
        let mut planes = Vec::new();
        let mut at = 0u64;
        while let Some(samples) = file.next_block()?.map(<[f32]>::len) {
            let (rate, channels) = (file.rate(), file.channels());
            let (first, behind) = (frames_in(start, rate), frames_in(start + seconds, rate));
            let there = (samples / channels) as u64;
            let from = first.saturating_sub(at).min(there);
            let to = behind.saturating_sub(at).min(there);
            if from < to {
                let block = file.block();
                mix::stereo(
                    &block.samples[from as usize * channels..to as usize * channels],
                    &block.sides,
                    &mut planes,
                );
            }
            at += there;
            let most = MAX_SAMPLES / channels.min(2);
            let seconds = most as f64 / f64::from(rate);
            if planes.first().is_some_and(|plane| plane.len() > most) || coming > seconds {
                return Err(AudioError::TooLong { path: path.to_owned(), seconds });
            }
            if at >= behind {
                break;
            }
        }
        if planes.first().is_none_or(Vec::is_empty) {
            let end = file.seconds_read();
            return Err(AudioError::StartsBehindEnd { path: path.to_owned(), start, end });
        }
        Ok(Self { rate: file.rate(), planes })
    }
}

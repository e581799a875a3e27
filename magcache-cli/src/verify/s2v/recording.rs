//! Recordings of cases: 16-bit WAV files.

use std::{fs, path::Path};

use anyhow::Result;

use crate::console::bad_input;

/// A recording as it is stored: its channels' mean, and samples per second.
pub(super) struct Recording {
    pub(super) waveform: Vec<f32>,
    pub(super) rate: usize,
    pub(super) channels: usize,
}

/// Reads a WAV file with 16 bits per sample.
pub(super) fn read(path: &Path) -> Result<Recording> {
    let bad = |what: &str| bad_input(format!("{}: {what}", path.display()));
    let bytes = fs::read(path).map_err(|e| bad(&e.to_string()))?;
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0usize, |n, byte| n << 8 | usize::from(*byte));
    let (mut rest, mut format) = (bytes.get(12..).ok_or_else(|| bad("not a WAV file"))?, None::<[usize; 3]>);
    while let Some((head, body)) = rest.split_at_checked(8) {
        let length = number(&head[4..]);
        let chunk = body.get(..length.min(body.len())).unwrap_or_default();
        match (&head[..4], format) {
            (b"fmt ", _) if chunk.len() >= 16 => {
                format = Some([&chunk[2..4], &chunk[4..8], &chunk[14..16]].map(number));
            }
            (b"data", Some([channels, rate, 16])) if channels > 0 => {
                let samples: Vec<f32> = chunk
                    .as_chunks::<2>()
                    .0
                    .iter()
                    .map(|x| f32::from(i16::from_le_bytes(*x)) / 32768.0)
                    .collect();
                let mean = |frame: &[f32]| frame.iter().sum::<f32>() / channels as f32;
                let waveform = samples.chunks_exact(channels).map(mean).collect();
                return Ok(Recording { waveform, rate, channels });
            }
            _ => {}
        }
        rest = body.get(length + length % 2..).unwrap_or_default();
    }
    Err(bad("has no samples of 16 bits"))
}

/// Mono samples at 16 kHz; `None` if this build cannot change the rate.
pub(super) fn resample(waveform: &[f32], rate: usize) -> Option<Vec<f32>> {
    (rate == magcache_models::wav2vec2::SAMPLE_RATE).then(|| waveform.to_vec())
}

//! Writes WAV files: PCM of 16 bits, one or two channels.

use std::{
    io::{self, Write},
    path::Path,
};

use crate::{AudioError, piece::Piece};

/// A piece of a file as the content of a WAV file: at most `seconds` from `start` on, at the file's own rate.
/// Files of 16 bits keep every sample; more than two channels are mixed down to two (ITU-R BS.775).
///
/// Errors: those of [`SoundFile`](crate::SoundFile); the file ends before `start`.
pub fn cut(path: &Path, start: f64, seconds: f64) -> Result<Vec<u8>, AudioError> {
    let piece = Piece::read(path, start, seconds)?;
    let mut out = Vec::new();
    let wrote = write(&mut out, piece.rate, &piece.planes);
    wrote.map_err(|reason| AudioError::Io { path: path.to_owned(), action: "copy", reason })?;
    Ok(out)
}

/// Writes planes of equal length. Samples are rounded to the nearest 1/32768, those beyond [-1, 1] are
/// clipped.
pub fn write(out: &mut impl Write, rate: u32, planes: &[Vec<f32>]) -> io::Result<()> {
    let frames = planes.first().map_or(0, Vec::len);
    let frame_bytes = 2 * planes.len();
    let too_long = || io::Error::new(io::ErrorKind::FileTooLarge, "a WAV file holds 4 GiB");
    let bytes = u32::try_from(frames * frame_bytes)
        .ok()
        .filter(|bytes| *bytes < u32::MAX - 64)
        .ok_or_else(too_long)?;
    out.write_all(b"RIFF")?;
    out.write_all(&(36 + bytes).to_le_bytes())?;
    out.write_all(b"WAVEfmt ")?;
    out.write_all(&16u32.to_le_bytes())?;
    let pcm = 1u16;
    out.write_all(&pcm.to_le_bytes())?;
    out.write_all(&(planes.len() as u16).to_le_bytes())?;
    out.write_all(&rate.to_le_bytes())?;
    out.write_all(&rate.saturating_mul(frame_bytes as u32).to_le_bytes())?;
    out.write_all(&(frame_bytes as u16).to_le_bytes())?;
    out.write_all(&16u16.to_le_bytes())?;
    out.write_all(b"data")?;
    out.write_all(&bytes.to_le_bytes())?;
    for frame in 0..frames {
        for plane in planes {
            let level = plane.get(frame).copied().unwrap_or(0.0) * 32768.0;
            out.write_all(&(level.round().clamp(-32768.0, 32767.0) as i16).to_le_bytes())?;
        }
    }
    Ok(())
}

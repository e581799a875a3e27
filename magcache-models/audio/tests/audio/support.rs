//! Files for tests, and the place of a click in samples.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use magcache_audio::SoundFile;
use tempfile::NamedTempFile;

/// A recorded file.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A file with this content, removed when dropped.
pub(crate) fn file(content: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(content).unwrap();
    file
}

/// A fixture whose bytes were changed.
pub(crate) fn changed(name: &str, change: impl FnOnce(&mut Vec<u8>)) -> NamedTempFile {
    let mut bytes = fs::read(fixture(name)).unwrap();
    change(&mut bytes);
    file(&bytes)
}

/// How samples lie in a WAV file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wav {
    /// 1 for integers, 3 for floats.
    pub(crate) kind: u16,
    pub(crate) bits: u16,
    pub(crate) channels: u16,
    pub(crate) rate: u32,
}

/// Integers of 16 bits.
pub(crate) const MONO: Wav = Wav { kind: 1, bits: 16, channels: 1, rate: 16_000 };

impl Wav {
    /// A file whose header says that `length` bytes of samples follow; `data` does.
    pub(crate) fn with_length(self, length: u32, data: &[u8]) -> Vec<u8> {
        let Self { kind, bits, channels, rate } = self;
        let frame = channels * bits / 8;
        let mut format = Vec::new();
        let surround = channels > 2;
        format.extend(if surround { 0xfffe } else { kind }.to_le_bytes());
        format.extend(channels.to_le_bytes());
        format.extend(rate.to_le_bytes());
        format.extend((rate * u32::from(frame)).to_le_bytes());
        format.extend(frame.to_le_bytes());
        format.extend(bits.to_le_bytes());
        if surround {
            // Front left and right, middle, rumble, back left and right, side left and right.
            let places: u32 = if channels == 8 { 0x63f } else { (1 << channels) - 1 };
            format.extend([22, 0]);
            format.extend(bits.to_le_bytes());
            format.extend(places.to_le_bytes());
            format.extend(kind.to_le_bytes());
            format.extend(*b"\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71");
        }
        let mut out = b"RIFF".to_vec();
        out.extend(length.saturating_add(20 + format.len() as u32).to_le_bytes());
        out.extend(*b"WAVEfmt ");
        out.extend((format.len() as u32).to_le_bytes());
        out.extend(&format);
        out.extend(*b"data");
        out.extend(length.to_le_bytes());
        out.extend(data);
        out
    }

    pub(crate) fn holding(self, data: &[u8]) -> Vec<u8> {
        self.with_length(data.len() as u32, data)
    }

    /// Integers of 16 bits, the same in every channel.
    pub(crate) fn of(self, samples: &[f32]) -> Vec<u8> {
        let level =
            |sample: &f32| ((sample * 32767.0).round() as i16).to_le_bytes().repeat(self.channels.into());
        self.holding(&samples.iter().flat_map(level).collect::<Vec<_>>())
    }
}

/// A tone of 2 kHz that lasts two milliseconds around `at`, in silence.
pub(crate) fn click(rate: u32, seconds: f64, at: f64) -> Vec<f32> {
    use std::f64::consts::PI;
    let sample = |n: usize| {
        let time = n as f64 / f64::from(rate) - at;
        let inside = time.abs() < 0.001;
        let level = 0.8 * (2.0 * PI * 2000.0 * time).cos() * (PI * time / 0.002).cos().powi(2);
        if inside { level as f32 } else { 0.0 }
    };
    (0..(seconds * f64::from(rate)).round() as usize).map(sample).collect()
}

/// Where the energy of samples lies, in seconds.
pub(crate) fn centre(samples: &[f32], rate: u32) -> f64 {
    let energy = |sample: &f32| f64::from(*sample).powi(2);
    let all: f64 = samples.iter().map(energy).sum();
    let moment: f64 = samples.iter().enumerate().map(|(n, sample)| n as f64 * energy(sample)).sum();
    moment / all / f64::from(rate)
}

/// What [`SoundFile::open`] or a block of it says.
pub(crate) fn refusal(path: &Path) -> magcache_audio::AudioError {
    let mut sound = match SoundFile::open(path) {
        Ok(sound) => sound,
        Err(error) => return error,
    };
    loop {
        match sound.next_block() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("{} is read without an error", path.display()),
            Err(error) => {
                assert!(matches!(sound.next_block(), Ok(None)), "nothing comes behind an error");
                return error;
            }
        }
    }
}

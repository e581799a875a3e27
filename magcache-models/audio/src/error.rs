//! What can be wrong with a file of sound.

use std::path::PathBuf;

/// Why a file could not be read as sound, or sound not be written. `path` is the path as it was given, times
/// are in seconds from the first sample that is heard.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AudioError {
    /// The system could not open, read or write the file.
    #[error("{}: cannot {action}: {reason}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// The operating system's error.
        reason: std::io::Error,
    },
    /// A file without content.
    #[error("{} is empty: got 0 bytes, expected a recording", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A file whose first bytes are not those of a format that is read, or whose header is broken.
    #[error("{} is not a recording that can be read: {reason}", path.display())]
    NotARecording {
        /// The file.
        path: PathBuf,
        /// What the reader says.
        reason: String,
    },
    /// A file that holds no sound, such as a video without a sound track.
    #[error("{} has no sound: none of its {tracks} tracks is audio", path.display())]
    NoSound {
        /// The file.
        path: PathBuf,
        /// Number of tracks that it has.
        tracks: usize,
    },
    /// A file whose sound has no samples.
    #[error("{} holds 0 samples", path.display())]
    NoSamples {
        /// The file.
        path: PathBuf,
    },
    /// Sound in a codec, or a form of it, that is not decoded.
    #[error("{}: its sound cannot be decoded: {reason}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// Which codec, or what is special about it.
        reason: String,
    },
    /// A file that ends before its own header says.
    #[error("{} is cut off or damaged: its header says {promised:.3} s, only {there:.3} s are there", path.display())]
    Cut {
        /// The file.
        path: PathBuf,
        /// How long it says it is.
        promised: f64,
        /// How long it is.
        there: f64,
    },
    /// A part of the file that cannot be decoded.
    #[error("{} is damaged {seconds:.3} s from its start: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        seconds: f64,
        /// What the decoder says.
        reason: String,
    },
    /// A sample that is not a number, or is infinite.
    #[error("{}: sample {sample} of channel {channel} is {value} ({seconds:.3} s from the start)", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// Index of the sample in its channel, from 0.
        sample: u64,
        /// Index of the channel, from 0.
        channel: usize,
        /// NaN or an infinity.
        value: f32,
        /// Where.
        seconds: f64,
    },
    /// A rate that cannot be resampled.
    #[error("{}: its rate is {rate} Hz, expected {} to {} Hz", path.display(), crate::file::RATES.start(), crate::file::RATES.end())]
    Rate {
        /// The file.
        path: PathBuf,
        /// The rate.
        rate: u32,
    },
    /// More samples than are held in memory.
    #[error("{} is too long: more than {seconds:.0} s of it would be held in memory", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// How much would fit.
        seconds: f64,
    },
    /// A piece was asked for that begins behind the end.
    #[error("{}: the sound is asked for from {start} s on, the file ends at {end:.3} s", path.display())]
    StartsBehindEnd {
        /// The file.
        path: PathBuf,
        /// Where the piece begins.
        start: f64,
        /// Where the file ends.
        end: f64,
    },
    /// A piece whose place or length is no time.
    #[error("{}: expected a piece of at least 0 s from 0 s on, got {seconds} s from {start} s on", path.display())]
    BadPiece {
        /// The file.
        path: PathBuf,
        /// Where the piece begins.
        start: f64,
        /// How long it is.
        seconds: f64,
    },
    /// The encoder refused its input.
    #[error("{}: its sound cannot be coded as AAC: {reason}", path.display())]
    Encode {
        /// The file whose sound it is.
        path: PathBuf,
        /// What the encoder says.
        reason: String,
    },
}

impl AudioError {
    /// What the user can do about it, if anything.
    pub fn hint(&self) -> Option<String> {
        Some(
            match self {
                Self::Empty { .. } | Self::NotARecording { .. } => {
                    "name a WAV, MP3, FLAC, Ogg Vorbis, M4A or AAC file"
                }
                Self::NoSound { .. } | Self::NoSamples { .. } => "name a file that has sound",
                Self::Unsupported { .. } => "convert it to WAV or FLAC",
                Self::Cut { .. } => {
                    "copy it again; if this is all there is, convert it to WAV, which mends its header"
                }
                Self::Damaged { .. } => {
                    "copy it again, or convert it to WAV, which drops what cannot be decoded"
                }
                Self::NotFinite { .. } => "export it again as 16 or 24 bits, which have no such values",
                Self::Rate { .. } => "convert it to 16000 or 48000 Hz",
                Self::TooLong { .. } => "cut the recording into pieces",
                Self::StartsBehindEnd { .. } => "name a longer recording, or begin earlier",
                _ => return None,
            }
            .to_owned(),
        )
    }
}

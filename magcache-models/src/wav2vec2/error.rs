//! What can be wrong with a recording.

use magcache_core::hint::{self, Hint};

use super::SAMPLE_RATE;

/// Seconds of the longest recording that is accepted.
///
/// Every hidden state attends to the whole recording, so time grows with the square of its length: half an
/// hour are 90,000 states, whose attention alone takes 8e14 operations, hours on a CPU.
pub const MAX_SECONDS: usize = 1800;

/// Why a recording could not be encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WaveformError {
    /// A recording without a single state, or feature.
    #[error("the recording has {samples} samples at {SAMPLE_RATE} Hz, expected at least {least}")]
    TooShort {
        /// Samples given.
        samples: usize,
        /// Samples of the shortest recording that can be used.
        least: usize,
    },
    /// A recording that would take hours to encode.
    #[error(
        "the recording is {} seconds long, at most {MAX_SECONDS} are accepted",
        samples.div_ceil(SAMPLE_RATE)
    )]
    TooLong {
        /// Samples given.
        samples: usize,
    },
    /// A sample that is no number, which would make every state one that is none.
    #[error("sample {index} of the recording is {value}, expected a finite number")]
    NotFinite {
        /// The sample.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// The tensor library failed, for instance because memory ran out.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl Hint for WaveformError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::TooShort { .. } => Some("give a longer recording, or add silence to its end".to_owned()),
            Self::TooLong { .. } => {
                let why = "the encoder hears a recording as a whole";
                Some(format!(
                    "cut it into parts and make a video of each; {why}, however few clips are asked for"
                ))
            }
            Self::NotFinite { .. } => Some("the audio file is damaged, or was decoded wrongly".to_owned()),
            Self::Tensor(error) => hint::of(error),
        }
    }
}

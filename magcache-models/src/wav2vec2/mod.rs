//! wav2vec 2.0, which Wan's speech-to-video model hears with.
//!
//! [`Wav2Vec2Processor`] normalises a recording and [`Wav2Vec2Encoder`] turns it into hidden states, fifty a
//! second, each a weighted view of the whole recording.

mod config;
mod encoder;
mod error;
mod extractor;
mod layer;
mod positions;
mod processor;
mod waveform;

pub use config::Wav2Vec2Config;
pub use encoder::Wav2Vec2Encoder;
pub use error::{MAX_SECONDS, WaveformError};
pub use processor::{SAMPLE_RATE, Wav2Vec2Processor};
pub use waveform::Waveform;

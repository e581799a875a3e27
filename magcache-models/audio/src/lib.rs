//! Sound in and out.
//!
//! In: a [`SoundFile`] is an opened WAV, MP3, FLAC, Ogg Vorbis, M4A or AAC file, decoded block by block; a
//! [`Recording`] is a whole one in memory, and [`read_mono`] is what encoders of speech read: one channel at
//! one rate, resampled as libsoxr does it ([`Resampler`]).
//!
//! Out: a [`SoundTrack`] is a piece of a file as packets for an MP4, copied where the file is AAC or MP3 and
//! coded as AAC-LC otherwise; [`wav`] writes samples.
//!
//! ```no_run
//! use std::path::Path;
//! # fn main() -> Result<(), magcache_audio::AudioError> {
//! let voice = Path::new("talk.mp3");
//! let samples = magcache_audio::read_mono(voice, 16_000, None)?; // 16 kHz, from the first sample heard
//! let track = magcache_audio::SoundTrack::cut(voice, 0.1875, 5.0)?; // five seconds, for a video
//! # Ok(())
//! # }
//! ```
//!
//! What a file promises is checked: a file that ends early, a damaged packet and a sample that is not finite
//! are errors that say where. Nothing here panics, and memory is bounded, whatever the bytes are.

mod decode;
mod edits;
mod encode;
mod error;
mod file;
mod mix;
mod packets;
mod piece;
mod recording;
mod resample;
mod track;
pub mod wav;

pub use error::AudioError;
pub use file::SoundFile;
pub use recording::{MAX_SAMPLES, Recording, read_mono};
pub use resample::{Resampler, resample};
pub use track::{Codec, Packet, SoundTrack};

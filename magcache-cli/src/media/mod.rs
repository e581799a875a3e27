//! Writes what a model generated: H.264 video, animated GIF, PNG and WebP images.
//!
//! The name given by the user selects the [`Format`]. [`Destination::prepare`] checks everything that can be
//! known before the run (format, size, folder, permissions), so that no compute is lost to a typo. Frames are
//! then encoded one by one, and the output appears under its final name only when the last one is complete: a
//! failed or interrupted run leaves nothing behind and an existing file untouched.
//!
//! ```no_run
//! use magcache_cli::media::{VideoShape, Frames, Destination, ValueRange};
//! # fn main() -> Result<(), magcache_cli::media::MediaError> {
//! let shape = VideoShape { width: 832, height: 480, frames: 81, fps: 16.0 };
//! let output = Destination::prepare("cat.mp4", shape)?;
//! # use candle_core::{DType, Device, Tensor};
//! # let decode = || Tensor::zeros((3, 81, 480, 832), DType::F32, &Device::Cpu);
//! let video = decode()?; // a minute of compute
//! output.write(&Frames::new(&video, ValueRange::Signed)?)?;
//! # Ok(())
//! # }
//! ```

mod destination;
mod error;
mod format;
mod frames;
mod gif;
mod mp4;
mod reading;
mod sound;
mod staging;
mod still;
#[cfg(test)]
mod testing;

pub use destination::{Destination, VideoShape, VideoWriter};
pub use error::MediaError;
pub use format::Format;
pub use frames::{Frames, ValueRange};
pub use reading::VideoReader;
pub use sound::sound_beside;
pub(crate) use staging::{StagedFolder, probe, sweep, write_file};
pub(crate) use still::write_picture;

//! Autoencoders: from pixels to the latents that the networks work on, and back.
//!
//! [`VideoVae`] is causal in time and works on a stream of frames, [`ImageVae`] on whole images. Both can
//! work tile by tile, see [`Tiling`].

mod error;
pub mod image;
mod tiling;
pub mod video;

pub use error::{AutoencoderConfigError, AutoencoderError};
pub use image::{ImageVae, ImageVaeConfig};
pub use tiling::{Tiling, TilingError};
pub use video::{VideoVae, VideoVaeConfig};

//! CLIP encoders.
//!
//! [`ClipVisionEncoder`] is what the image-to-video models of Wan 2.1 see their first frame with, and
//! [`ClipImageProcessor`] makes its input of a [`Picture`](crate::image::Picture).

mod config;
mod layer;
mod processor;
mod vision;

pub use config::{Activation, ClipVisionConfig};
pub use processor::ClipImageProcessor;
pub use vision::ClipVisionEncoder;

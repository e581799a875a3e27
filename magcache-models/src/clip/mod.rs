//! CLIP encoders.
//!
//! [`ClipVisionEncoder`] encodes the first frame for the image-to-video models of Wan 2.1, and
//! [`ClipImageProcessor`] turns a [`Picture`](crate::image::Picture) into its input. [`ClipTextEncoder`]
//! computes the pooled embedding of a prompt for Flux.

mod config;
mod layer;
mod processor;
mod text;
mod text_config;
mod vision;

pub use config::{Activation, ClipVisionConfig};
pub use processor::ClipImageProcessor;
pub use text::{ClipTextEncoder, ClipTextOutput};
pub use text_config::ClipTextConfig;
pub use vision::ClipVisionEncoder;

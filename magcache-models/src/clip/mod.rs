//! CLIP encoders.
//!
//! [`ClipVisionEncoder`] is what the image-to-video models of Wan 2.1 see their first frame with, and
//! [`ClipImageProcessor`] makes its input of a [`Picture`](crate::image::Picture). [`ClipTextEncoder`] gives Flux the pooled
//! embedding of a prompt.

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

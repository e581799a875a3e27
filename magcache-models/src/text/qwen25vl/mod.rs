//! The text encoder of Qwen-Image: Qwen2.5-VL without its head, a language model that sees pictures.

mod config;
mod encoder;
mod pictures;
mod positions;
mod vision;

pub use config::{Qwen25VlConfig, VisionConfig};
pub use encoder::{Qwen25VlEncoder, SeenPictures};
pub use pictures::{picture_patches, processed, processed_size};

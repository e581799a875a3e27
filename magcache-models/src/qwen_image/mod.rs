//! Qwen-Image and Qwen-Image-Edit: images from text, from a picture, or from what is said about one or
//! several.

mod block;
mod components;
mod config;
mod denoiser;
pub mod meta;
mod pipeline;
pub mod positions;
mod sizes;
mod text;
mod transformer;

pub use config::QwenImageConfig;
pub use denoiser::{QwenImageDenoiser, QwenImagePrompt};
pub use pipeline::QwenImagePipeline;
pub use text::Edition;
pub use transformer::QwenImageTransformer;

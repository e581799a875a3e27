//! Z-Image: Turbo, distilled to 8 steps, and the base model.

mod block;
mod config;
mod denoiser;
pub mod meta;
pub mod native;
mod parts;
mod pipeline;
mod positions;
mod text;
mod transformer;

pub use config::{MULTIPLE, ZImageConfig};
pub use denoiser::{ZImageDenoiser, ZImageGuidance};
pub use pipeline::ZImagePipeline;
pub use text::ZImageTextEncoder;
pub use transformer::{ZImagePrompt, ZImageTime, ZImageTransformer};

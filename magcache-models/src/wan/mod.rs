//! Wan 2.1 and Wan 2.2.

mod attention;
mod block;
mod condition;
mod config;
mod defaults;
mod denoiser;
mod embed;
mod experts;
mod image;
pub mod meta;
mod modulation;
pub mod names;
mod parts;
mod patch;
mod pipeline;
mod request;
mod rope;
pub mod s2v;
mod source;
mod text;
mod text_encoder;
pub mod tiny;
mod transformer;

pub use condition::FrameCondition;
pub use config::WanConfig;
pub use denoiser::WanDenoiser;
pub use experts::WanPrompts;
pub use image::WanImageEncoder;
pub use pipeline::WanPipeline;
pub use rope::WanRope;
pub use source::{Layout, WanSource, WanTask, open_transformer, open_vae, open_vae_file};
pub use text::TextContext;
pub use text_encoder::WanTextEncoder;
pub use transformer::{WanInput, WanTransformer};

/// Result of loading a part of the network.
type LoadResult<T> = std::result::Result<T, crate::checkpoint::CheckpointError>;

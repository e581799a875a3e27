//! Pipelines of diffusion transformers on candle with timestep caching built in.

pub mod autoencoder;
pub mod blocks;
pub mod clip;
pub mod flux;
pub mod image;
mod mmdit;
mod model_id;
mod once;
pub mod pipeline;
mod profiles;
pub mod qwen_image;
pub mod ranks;
pub mod recognise;
pub mod sampler;
pub mod text;
pub mod wan;
pub mod wav2vec2;
pub mod z_image;

pub use magcache_checkpoint as checkpoint;
pub use magcache_nn as nn;

magcache_core::hints!(
    autoencoder::AutoencoderError,
    checkpoint::CheckpointError,
    checkpoint::ConfigError,
    image::PictureError,
    pipeline::PipelineError,
    sampler::SamplerError,
    text::TextError,
    text::TokenizerError,
    wav2vec2::WaveformError,
);

/// Keeps this crate, and so its registrations, in a binary that does not otherwise refer to it.
pub fn link() {}

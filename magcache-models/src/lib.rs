//! Wan and Flux pipelines on candle with timestep caching built in.

pub mod checkpoint;
pub mod clip;
pub mod flux;
pub mod image;
pub mod nn;
pub mod pipeline;
mod profiles;
pub mod quality;
pub mod sampler;
pub mod text;
pub mod tiling;
pub mod tiny;
pub mod wan;

/// Keeps this crate, and so its registrations, in a binary that names nothing else of it.
pub fn link() {}

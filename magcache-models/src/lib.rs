//! Wan and Flux pipelines on candle with timestep caching built in.

pub mod checkpoint;
pub mod clip;
pub mod flux;
pub mod flux2;
pub mod image;
mod model_id;
pub mod nn;
mod once;
pub mod pipeline;
mod profiles;
pub mod quality;
pub mod sampler;
#[cfg(test)]
mod testing;
pub mod text;
pub mod tiling;
pub mod tiny;
pub mod wan;

/// Keeps this crate, and so its registrations, in a binary that names nothing else of it.
pub fn link() {}

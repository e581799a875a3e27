//! Wan and Flux pipelines on candle with timestep caching built in.

pub mod checkpoint;
pub mod nn;
pub mod pipeline;
mod profiles;
pub mod quality;
pub mod sampler;
pub mod text;
pub mod tiny;
pub mod wan;

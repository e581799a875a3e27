//! FLUX.1, and the parts that FLUX.2 ([`flux2`](crate::flux2)) has in common with it.

pub(crate) mod attention;
mod block;
mod config;
mod context;
mod denoiser;
pub(crate) mod dual;
pub(crate) mod embed;
pub(crate) mod feed_forward;
pub(crate) mod head;
pub mod meta;
pub(crate) mod modulation;
pub mod native;
mod pipeline;
mod positions;
pub(crate) mod read;
pub(crate) mod single;
mod transformer;
pub mod vae;

pub use config::FluxConfig;
pub use context::FluxContext;
pub use denoiser::{FluxDenoiser, FluxGuidance, FluxNetwork};
pub use pipeline::FluxPipeline;
pub use positions::{FluxPositions, FluxRope};
pub use read::FluxConfigError;
pub use transformer::FluxTransformer;

/// What loading a part of the network gives.
pub(crate) type LoadResult<T> = std::result::Result<T, crate::checkpoint::CheckpointError>;

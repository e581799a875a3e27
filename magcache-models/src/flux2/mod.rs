//! FLUX.2.

mod config;
pub mod meta;
pub mod native;
mod transformer;

pub use crate::flux::{FluxConfigError, FluxContext, FluxPositions, FluxRope};
pub use config::Flux2Config;
pub use transformer::Flux2Transformer;

//! FLUX.1 and FLUX.2: two generations of networks, and one pipeline for both.
//!
//! [`flux1`] and [`flux2`] contain what is specific to a generation and do not refer to each other.

mod denoiser;
pub mod flux1;
pub mod flux2;
mod meta;
pub mod native;
mod pipeline;
pub mod positions;
pub mod tiny;
mod transformer;

pub use crate::mmdit::{AxesRope, JointPositions, PromptContext};
pub use denoiser::{FluxDenoiser, FluxGuidance, FluxNetwork};
pub use flux1::{FluxConfig, FluxTextEncoder, FluxTransformer};
pub use flux2::{Flux2Config, Flux2TextEncoder, Flux2Transformer};
pub use pipeline::FluxPipeline;
pub use transformer::Transformer;

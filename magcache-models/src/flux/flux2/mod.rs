//! FLUX.2: dev and klein.

mod config;
pub mod meta;
pub mod native;
mod text;
mod transformer;

pub use config::Flux2Config;
pub use text::Flux2TextEncoder;
pub use transformer::Flux2Transformer;

//! FLUX.2: dev and klein.

mod config;
pub mod meta;
pub mod native;
mod schedule;
mod text;
mod transformer;

pub use config::Flux2Config;
pub use schedule::{mu, schedule};
pub use text::Flux2TextEncoder;
pub use transformer::Flux2Transformer;

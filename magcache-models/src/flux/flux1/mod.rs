//! FLUX.1: dev, schnell and Kontext.

mod config;
pub mod meta;
pub mod native;
mod schedule;
mod text;
mod text_parts;
mod transformer;

pub use config::FluxConfig;
pub use schedule::schedule;
pub use text::{FluxPrompt, FluxPromptEmbeds, FluxTextEncoder};
pub use text_parts::FluxTextParts;
pub use transformer::FluxTransformer;

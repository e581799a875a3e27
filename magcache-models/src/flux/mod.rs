//! FLUX.1 and FLUX.2.

pub mod vae;

//! Tensor names of the native Wan releases, in terms of the names that this crate's models read.
//!
//! The native repositories (`Wan-AI/Wan2.1-T2V-1.3B` and its siblings) and files made from them name the same tensors
//! differently: the transformer and the autoencoders than diffusers, the text and image encoders than transformers. Each
//! part has a table here.

mod clip;
mod table;
mod text_encoder;
mod transformer;
mod vae;

pub use clip::clip_vision;
pub use text_encoder::text_encoder;
pub use transformer::{is_native, to_diffusers, to_native};
pub use vae::{VaeNames, vae};

//! Where a model's files come from and how their tensors are read.
//!
//! [`Folder`] is a directory or a set of files inside the binary; [`Weights`] are the tensors of one
//! component of it. Files are mapped, not read, and their pages go back to the system as soon as a tensor has
//! been copied out, so loading needs little more memory than the tensors themselves; coded matrices stay in
//! the mapping and are decoded row by row ([`CodedMatrix`]). Nothing here panics,
//! whatever the bytes are.

mod adapter;
mod blob;
pub mod config;
mod decode;
mod device;
mod error;
mod files;
mod folder;
mod gguf;
mod header;
mod mapped;
mod metadata;
mod mmap;
mod number;
mod ops;
mod read;
mod scales;
pub mod table;
#[cfg(test)]
mod tests;
mod torch;
mod unread;
mod upload;
mod weights;

pub use adapter::{Adapter, AdapterNames, AdapterReport, Part as AdapterPart};
pub use config::ConfigError;
pub use decode::decode_f8;
pub use device::{Milestone, compute_capability, half_precision};
pub use error::CheckpointError;
pub use folder::{EmbeddedFile, Folder};
pub use mapped::Mapped;
pub use number::NumberFormat;
pub use ops::Ops;
pub use weights::{CodedMatrix, DeviceMatrix, Flat, Format, Matrix, WIDEN_LIMIT, WeightDtype, Weights};

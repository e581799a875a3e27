//! Where a model's files come from and how their tensors are read.
//!
//! [`Folder`] is a directory or a set of files inside the binary; [`Weights`] are the tensors of one
//! component of it. Files are mapped, not read, and their pages go back to the system as soon as a tensor has
//! been copied out, so loading needs little more memory than the tensors themselves. Nothing here panics,
//! whatever the bytes are.

mod blob;
pub mod config;
mod error;
mod files;
mod folder;
mod header;
mod mapped;
mod mmap;
mod ops;
mod read;
pub mod table;
#[cfg(test)]
mod tests;
mod torch;
mod unread;
mod weights;

pub use config::ConfigError;
pub use error::CheckpointError;
pub use folder::{EmbeddedFile, Folder};
pub use mapped::Mapped;
pub use ops::Ops;
pub use weights::{Format, WIDEN_LIMIT, WeightDtype, Weights};

//! Several ranks on one forward: tokens, heads and guidance branches in shares.
//!
//! With Ulysses each rank has its own tokens, and everything but self-attention is about one token at a time.
//! Around attention the ranks trade: tokens of all heads for all tokens of some heads ([`Sequence`]).
//! With CFG parallelism each branch of guidance has ranks of its own. Shares need not be even, and
//! nothing is padded.

mod host;
mod launcher;
mod layout;
#[cfg(unix)]
mod mpi;
mod sequence;

use std::fmt::Debug;

use candle_core::{Result, Tensor};
use magcache_core::hint;

pub use host::HostPlane;
pub use launcher::{Launcher, Meets};
pub use layout::{Layout, LayoutError, Ranks};
#[cfg(unix)]
pub use mpi::MpiPlane;
pub use sequence::Sequence;

/// Checks that every rank gets a head.
///
/// Errors: more ranks than heads.
pub(crate) fn check_heads(heads: usize, plane: Option<&dyn DataPlane>) -> Result<()> {
    let ranks = plane.map_or(1, DataPlane::size);
    if ranks <= heads {
        return Ok(());
    }
    let message = format!("{heads} attention heads cannot be divided among {ranks} ranks");
    Err(hint::tensor_error(message, format!("`parallel = \"ulysses={heads}\"` at most")))
}

/// Moves tensors between the ranks of a group.
pub trait DataPlane: Debug + Send + Sync {
    /// The place of this rank, from 0.
    fn place(&self) -> usize;

    /// Number of ranks.
    fn size(&self) -> usize;

    /// Sends `parts[p]` to the rank at place `p` and returns what each sent here, of the shapes
    /// `shapes[p]` and of the dtype and device of the parts. `about` names what they are.
    ///
    /// Errors: the engine's; ranks that have come apart.
    fn all_to_all(&self, about: &str, parts: Vec<Tensor>, shapes: &[Vec<usize>]) -> Result<Vec<Tensor>>;
}

//! Several ranks on one forward: tokens, heads and guidance branches in shares.
//!
//! With Ulysses each rank has its own tokens, and everything but self-attention is about one token at a time.
//! Around attention the ranks trade: tokens of all heads for all tokens of some heads ([`Sequence`]).
//! With CFG parallelism each branch of guidance has ranks of its own. Shares need not be even, and
//! nothing is padded.

#[cfg(any(test, feature = "nccl"))]
mod device;
mod host;
mod launcher;
mod layout;
#[cfg(unix)]
mod mpi;
#[cfg(feature = "nccl")]
mod nccl;
mod sequence;

use std::{fmt::Debug, sync::Arc};

use candle_core::{Device, Result, Tensor};
use magcache_core::{Group, hint};

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

/// How the ranks of a group get a way for tensors between their devices.
type Join = fn(&Group, &Device) -> Result<Arc<dyn DataPlane>>;

/// NCCL, in a build that has it.
#[cfg(feature = "nccl")]
const NCCL: Option<Join> = Some(nccl::join);
#[cfg(not(feature = "nccl"))]
const NCCL: Option<Join> = None;

/// The version of NCCL that is loaded, in a build with the feature `nccl`.
pub fn nccl_version() -> Option<String> {
    #[cfg(feature = "nccl")]
    return Some(nccl::version());
    #[cfg(not(feature = "nccl"))]
    None
}

/// How tensors get from one of several ranks to another: with NCCL from GPU to GPU, else through the hosts.
fn engine(on_gpu: bool, ranks: usize, nccl: Option<Join>) -> Option<Join> {
    nccl.filter(|_| on_gpu && ranks > 1)
}

/// What moves tensors between the ranks of a group, all of which call this.
fn plane_of(group: &Group, device: &Device) -> Result<Arc<dyn DataPlane>> {
    match engine(device.is_cuda(), group.size(), NCCL) {
        Some(join) => join(group, device),
        None => Ok(Arc::new(HostPlane::new(group.clone()))),
    }
}

/// A version from the number that NCCL has for it: two digits for each part from 2.9 on, one before.
#[cfg(any(test, feature = "nccl"))]
fn version_of(code: u32) -> String {
    let [major, minor] = if code < 10_000 { [1000, 100] } else { [10_000, 100] };
    format!("{}.{}.{}", code / major, code % major / minor, code % minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nccl_is_for_several_ranks_on_gpus_in_a_build_that_has_it() {
        let join: Join = |group, _| Ok(Arc::new(HostPlane::new(group.clone())));
        for (on_gpu, ranks, built_in, expected) in [
            (true, 2, true, true),
            (true, 8, false, false),
            (true, 1, true, false),
            (false, 2, true, false),
            (false, 1, false, false),
        ] {
            let chosen = engine(on_gpu, ranks, built_in.then_some(join));
            assert_eq!(chosen.is_some(), expected, "on a GPU: {on_gpu}, {ranks} ranks, NCCL: {built_in}");
        }
        assert_eq!(nccl_version().is_some(), cfg!(feature = "nccl"));
    }

    #[test]
    fn versions_are_read_as_nccl_writes_them() {
        for (code, version) in [(21_805, "2.18.5"), (22_809, "2.28.9"), (23_003, "2.30.3"), (2_804, "2.8.4")]
        {
            assert_eq!(version_of(code), version);
        }
    }
}

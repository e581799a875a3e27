//! Weights in the order in which products read them.

use candle_core::{Result, Tensor};
use magcache_checkpoint::Ops;

use super::cpu::on_cpu;

/// The weight of a layer. On the CPU an f32 weight is kept prepared for products (`P`, a handle); one of half
/// precision stays as it is, so that a model takes no more memory than its file, and is prepared for each
/// call.
#[derive(Clone, Debug)]
pub(crate) enum Weight<P> {
    Stored(Tensor),
    Prepared(P),
}

impl<P: Clone> Weight<P> {
    pub(crate) fn new(ops: Ops, weight: Tensor, prepare: impl FnOnce(&Tensor) -> Result<P>) -> Result<Self> {
        Ok(if on_cpu(ops, &weight) { Self::Prepared(prepare(&weight)?) } else { Self::Stored(weight) })
    }

    /// Prepared for a product with `x` if our kernels apply, else as it is stored.
    pub(crate) fn of_product(
        &self,
        ops: Ops,
        x: &Tensor,
        prepare: impl FnOnce(&Tensor) -> Result<P>,
    ) -> Result<Self> {
        match self {
            Self::Prepared(weight) => Ok(Self::Prepared(weight.clone())),
            Self::Stored(weight) if on_cpu(ops, x) => Ok(Self::Prepared(prepare(weight)?)),
            Self::Stored(weight) => Ok(Self::Stored(weight.clone())),
        }
    }
}

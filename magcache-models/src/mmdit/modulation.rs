//! Shift, scale and gate of the hidden states, from the embedding of the timestep.

use candle_core::{D, Result, Tensor};

use crate::{
    checkpoint::Ops,
    nn::{gated_add, layer_norm_modulate},
};

/// Shift, scale and gate of one part of a block, `[batch, 1, inner]` each.
#[derive(Debug)]
pub(crate) struct Modulation {
    shift: Tensor,
    scale: Tensor,
    gate: Tensor,
    ops: Ops,
}

impl Modulation {
    /// The modulations of `N` parts, one after the other: from `[batch, 3 * N * inner]`.
    pub(crate) fn split<const N: usize>(ops: Ops, projected: &Tensor) -> Result<[Self; N]> {
        let inner = projected.dim(D::Minus1)? / (3 * N);
        let rows = projected.unsqueeze(1)?;
        let row = |i: usize| rows.narrow(D::Minus1, i * inner, inner);
        let part =
            |i: usize| Ok(Self { shift: row(3 * i)?, scale: row(3 * i + 1)?, gate: row(3 * i + 2)?, ops });
        let parts = (0..N).map(part).collect::<Result<Vec<_>>>()?;
        parts.try_into().map_err(|_| candle_core::Error::msg("a split in another number of parts"))
    }

    /// The part's input: `[batch, tokens, inner]`, normed without weights, scaled and shifted.
    pub(crate) fn norm(&self, x: &Tensor, eps: f64) -> Result<Tensor> {
        layer_norm_modulate(self.ops, x, &self.shift, &self.scale, eps)
    }

    /// The factor of the part's result, `[batch, 1, inner]`.
    pub(crate) fn gate(&self) -> &Tensor {
        &self.gate
    }

    /// `x + gate * y`, where `y` is the part's result.
    pub(crate) fn add(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        gated_add(self.ops, x, y, &self.gate)
    }
}

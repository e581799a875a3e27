//! Shift, scale and gate of the hidden states, from the embedding of the timestep.

use candle_core::{D, Result, Tensor};

use super::{BlockSizes, LoadResult};
use crate::{
    checkpoint::{Ops, Weights},
    nn::{Linear, gated_add, layer_norm_modulate},
};

/// Shift, scale and gate of one part of a block, `[batch, 1 or tokens, inner]` each.
#[derive(Clone, Debug)]
pub(crate) struct Modulation {
    shift: Tensor,
    scale: Tensor,
    gate: Tensor,
    ops: Ops,
}

impl Modulation {
    /// The modulations of `N` parts, one after the other: from `[batch, 1 or tokens, 3 * N * inner]`.
    pub(crate) fn split<const N: usize>(ops: Ops, rows: &Tensor) -> Result<[Self; N]> {
        let inner = rows.dim(D::Minus1)? / (3 * N);
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

    /// The factor of the part's result, `[batch, 1 or tokens, inner]`.
    pub(crate) fn gate(&self) -> &Tensor {
        &self.gate
    }

    /// `x + gate * y`, where `y` is the part's result.
    pub(crate) fn add(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        gated_add(self.ops, x, y, &self.gate)
    }
}

/// Computes the modulations of `N` parts of a block from the embedding of the timestep.
#[derive(Debug)]
pub(crate) struct Modulator<const N: usize>(Linear);

impl<const N: usize> Modulator<N> {
    pub(crate) fn load(weights: &Weights, sizes: &BlockSizes) -> LoadResult<Self> {
        let inner = sizes.inner();
        Linear::load(&weights.pp("linear"), inner, 3 * N * inner, sizes.bias()).map(Self)
    }

    fn forward(&self, activated: &Tensor) -> Result<[Modulation; N]> {
        Modulation::split(self.0.ops(), &self.0.forward(activated)?.unsqueeze(1)?)
    }
}

/// The embedding of a step's timestep as the blocks read it.
#[derive(Debug)]
pub(crate) struct Conditioning {
    /// After its `SiLU`, `[batch, inner]`.
    pub(crate) activated: Tensor,
    /// For blocks without a modulator.
    pub(crate) shared: Option<SharedModulation>,
}

impl Conditioning {
    /// The modulation by a block's own layer, or else the shared one.
    pub(crate) fn modulation<const N: usize>(
        &self,
        own: Option<&Modulator<N>>,
        shared: impl Fn(&SharedModulation) -> &[Modulation; N],
    ) -> Result<[Modulation; N]> {
        match (own, &self.shared) {
            (Some(own), _) => own.forward(&self.activated),
            (None, Some(all)) => Ok(shared(all).clone()),
            (None, None) => candle_core::bail!("a block without a modulation"),
        }
    }
}

/// The modulations that all blocks of a stack share (FLUX.2).
#[derive(Debug)]
pub(crate) struct SharedModulation {
    pub(crate) image: [Modulation; 2],
    pub(crate) text: [Modulation; 2],
    pub(crate) joint: [Modulation; 1],
    /// Those of the image before they are split, `[batch, 6 * inner]`.
    pub(crate) projection: Tensor,
}

/// The layers that compute a [`SharedModulation`].
#[derive(Debug)]
pub(crate) struct SharedModulators {
    image: Modulator<2>,
    text: Modulator<2>,
    joint: Modulator<1>,
}

impl SharedModulators {
    pub(crate) fn load(weights: &Weights, sizes: &BlockSizes) -> LoadResult<Self> {
        Ok(Self {
            image: Modulator::load(&weights.pp("double_stream_modulation_img"), sizes)?,
            text: Modulator::load(&weights.pp("double_stream_modulation_txt"), sizes)?,
            joint: Modulator::load(&weights.pp("single_stream_modulation"), sizes)?,
        })
    }

    pub(crate) fn forward(&self, activated: &Tensor) -> Result<SharedModulation> {
        let projection = self.image.0.forward(activated)?;
        Ok(SharedModulation {
            image: Modulation::split(self.image.0.ops(), &projection.unsqueeze(1)?)?,
            text: self.text.forward(activated)?,
            joint: self.joint.forward(activated)?,
            projection,
        })
    }
}

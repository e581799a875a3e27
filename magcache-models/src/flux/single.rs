//! A single-stream block: attention and feed-forward side by side on text and image in one sequence.

use candle_core::{D, Result, Tensor};

use super::LoadResult;
use super::attention::Projections;
use super::feed_forward::Activation;
use super::modulation::Modulation;
use crate::nn::{Linear, RotaryTable};

/// `single_transformer_blocks.N` without what makes its modulation.
#[derive(Debug)]
pub(crate) struct SingleBlock {
    pub(crate) projections: Projections,
    pub(crate) proj_mlp: Linear,
    pub(crate) activation: Activation,
    /// Reads the attention's channels, then those of the feed-forward.
    pub(crate) proj_out: Linear,
    pub(crate) heads: usize,
    /// Epsilon of the layer norm.
    pub(crate) eps: f64,
}

impl SingleBlock {
    /// `[batch, text tokens + image tokens, inner]` to the same shape.
    pub(crate) fn forward(&self, x: &Tensor, modulation: &Modulation, rope: &RotaryTable) -> Result<Tensor> {
        let normed = modulation.norm(x, self.eps)?;
        let attended = self.projections.forward(&normed, rope)?.attend(self.heads)?;
        let hidden = self.activation.forward(&self.proj_mlp.forward(&normed)?)?;
        modulation.add(x, &self.proj_out.forward(&Tensor::cat(&[attended, hidden], D::Minus1)?)?)
    }
}

/// Consecutive rows of a fused projection, each a layer of its own: handles to one tensor, not copies.
pub(crate) fn split_rows<const N: usize>(fused: &Tensor, rows: [usize; N]) -> LoadResult<[Linear; N]> {
    let mut start = 0;
    let mut parts = Vec::with_capacity(N);
    for length in rows {
        parts.push(Linear::new(fused.narrow(0, start, length)?, None)?);
        start += length;
    }
    parts.try_into().map_err(|_| candle_core::Error::msg("rows for another number of layers").into())
}

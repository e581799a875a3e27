//! A single-stream block: attention and feed-forward in parallel on text and image in one sequence.

use candle_core::{Result, Tensor};
use magcache_core::{Modules, Streams};

use super::ATTENTION;
use super::JointPositions;
use super::LoadResult;
use super::attention::Projections;
use super::feed_forward::Activation;
use super::modulation::Modulation;
use crate::{
    checkpoint::Ops,
    nn::{JoinedLinear, Linear},
};

/// How much of a block is its module `attn`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Extent {
    /// The attention alone, before the projection that it shares with the feed-forward (FLUX.1).
    Attention,
    /// The feed-forward and the shared projection too (FLUX.2).
    All,
}

/// `single_transformer_blocks.N` without the layers that compute its modulation.
#[derive(Debug)]
pub(crate) struct SingleBlock {
    pub(crate) projections: Projections,
    pub(crate) proj_mlp: Linear,
    pub(crate) activation: Activation,
    /// Reads the attention's channels, then those of the feed-forward.
    pub(crate) proj_out: JoinedLinear,
    pub(crate) heads: usize,
    /// The extent of the checkpoint's `attn`.
    pub(crate) attn: Extent,
    /// Epsilon of the layer norm.
    pub(crate) eps: f64,
}

impl SingleBlock {
    /// `[batch, text tokens + image tokens, inner]` to the same shape.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        modulation: &Modulation,
        positions: &JointPositions,
        modules: &mut Modules<'_>,
    ) -> Result<Tensor> {
        let normed = modulation.norm(x, self.eps)?;
        let joint = Streams::Joint { tokens: normed.clone(), text: 0..positions.text().tokens()? };
        let y = match self.attn {
            Extent::Attention => {
                let attended =
                    modules.module(ATTENTION, joint, |x| x.map_joint(|x| self.attend(x, positions)))?;
                self.project(tokens(attended)?, &normed)?
            }
            Extent::All => tokens(modules.module(ATTENTION, joint, |x| {
                x.map_joint(|x| self.project(self.attend(x, positions)?, x))
            })?)?,
        };
        modulation.add(x, &y)
    }

    fn attend(&self, normed: &Tensor, positions: &JointPositions) -> Result<Tensor> {
        self.projections.forward(normed, positions.joint())?.attend(self.proj_mlp.ops(), self.heads)
    }

    fn project(&self, attended: Tensor, normed: &Tensor) -> Result<Tensor> {
        let hidden = self.activation.after(&self.proj_mlp, normed)?;
        self.proj_out.forward(&attended, &hidden)
    }
}

/// The whole sequence.
fn tokens(streams: Streams) -> Result<Tensor> {
    match streams {
        Streams::Joint { tokens, .. } => Ok(tokens),
        _ => candle_core::bail!("the attention of a single-stream block gave streams of their own"),
    }
}

/// Consecutive rows of a fused projection, each a layer of its own: handles to one tensor, not copies.
pub(crate) fn split_rows<const N: usize>(
    ops: Ops,
    fused: &Tensor,
    rows: [usize; N],
) -> LoadResult<[Linear; N]> {
    let mut start = 0;
    let mut parts = Vec::with_capacity(N);
    for length in rows {
        parts.push(Linear::new(ops, fused.narrow(0, start, length)?, None)?);
        start += length;
    }
    parts.try_into().map_err(|_| candle_core::Error::msg("rows for another number of layers").into())
}

//! A single-stream block: attention and feed-forward in parallel on text and image in one sequence.

use candle_core::{Result, Tensor};
use magcache_core::{Modules, Streams};

use super::{
    ATTENTION, BlockSizes, Form, JointPositions, LoadResult,
    attention::Projections,
    modulation::{Conditioning, Modulator},
};
use crate::{
    checkpoint::{Ops, Weights},
    nn::{JoinedLinear, Linear},
};

/// `single_transformer_blocks.N`.
#[derive(Debug)]
pub(crate) struct SingleBlock {
    /// In FLUX.1.
    norm: Option<Modulator<1>>,
    projections: Projections,
    proj_mlp: Linear,
    /// Reads the attention's channels, then those of the feed-forward.
    proj_out: JoinedLinear,
    sizes: BlockSizes,
}

impl SingleBlock {
    pub(crate) fn load(weights: &Weights, sizes: &BlockSizes) -> LoadResult<Self> {
        let (inner, hidden) = (sizes.inner(), sizes.hidden);
        let attn = weights.pp("attn");
        let (norm, projections, proj_mlp, proj_out) = match sizes.form {
            Form::Gelu => (
                Some(Modulator::load(&weights.pp("norm"), sizes)?),
                Projections::load_image(&attn, sizes)?,
                Linear::load(&weights.pp("proj_mlp"), inner, hidden, true)?,
                weights.pp("proj_out"),
            ),
            // Its first layer holds the projections of attention and feed-forward in one tensor.
            Form::SwiGlu => {
                let rows = [inner, inner, inner, sizes.form.before_activation(hidden)];
                let fused = attn.get("to_qkv_mlp_proj.weight", &[rows.iter().sum(), inner])?;
                let [to_q, to_k, to_v, proj_mlp] = split_rows(weights.ops(), &fused, rows)?;
                let projections = Projections::new(&attn, [to_q, to_k, to_v], ["norm_q", "norm_k"], sizes)?;
                (None, projections, proj_mlp, attn.pp("to_out"))
            }
        };
        let proj_out = JoinedLinear::load(&proj_out, [inner, hidden], inner, sizes.bias())?;
        Ok(Self { norm, projections, proj_mlp, proj_out, sizes: *sizes })
    }

    /// `[batch, text tokens + image tokens, inner]` to the same shape.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        conditioning: &Conditioning,
        positions: &JointPositions,
        modules: &mut Modules<'_>,
    ) -> Result<Tensor> {
        let [modulation] = conditioning.modulation(self.norm.as_ref(), |shared| &shared.joint)?;
        let normed = modulation.norm(x, self.sizes.eps)?;
        let joint = Streams::Joint { tokens: normed.clone(), text: 0..positions.text().tokens()? };
        // The checkpoint's `attn` is the attention alone, or all that surrounds it.
        let y = match self.sizes.form {
            Form::Gelu => {
                let attended =
                    modules.module(ATTENTION, joint, |x| x.map_joint(|x| self.attend(x, positions)))?;
                self.project(tokens(attended)?, &normed)?
            }
            Form::SwiGlu => tokens(modules.module(ATTENTION, joint, |x| {
                x.map_joint(|x| self.project(self.attend(x, positions)?, x))
            })?)?,
        };
        modulation.add(x, &y)
    }

    fn attend(&self, normed: &Tensor, positions: &JointPositions) -> Result<Tensor> {
        let (ops, heads) = (self.proj_mlp.ops(), self.sizes.heads);
        self.projections.forward(normed, positions.joint())?.attend(ops, heads, positions.sequence())
    }

    fn project(&self, attended: Tensor, normed: &Tensor) -> Result<Tensor> {
        let hidden = self.sizes.form.activated(&self.proj_mlp, normed)?;
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
fn split_rows<const N: usize>(ops: Ops, fused: &Tensor, rows: [usize; N]) -> LoadResult<[Linear; N]> {
    let mut start = 0;
    let mut parts = Vec::with_capacity(N);
    for length in rows {
        parts.push(Linear::new(ops, fused.narrow(0, start, length)?, None)?);
        start += length;
    }
    parts.try_into().map_err(|_| candle_core::Error::msg("rows for another number of layers").into())
}

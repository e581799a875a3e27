//! Attention over text and image tokens together; tokens of text come first everywhere.

use candle_core::{Result, Tensor};

use super::{BlockSizes, JointPositions, LoadResult};
use crate::checkpoint::{Ops, Weights};
use crate::nn::{Linear, RmsNorm, RotaryTable};
use crate::ranks::Sequence;

/// Queries, keys and values of one stream, with a norm of each head's queries and keys.
#[derive(Debug)]
pub(crate) struct Projections {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    norm_q: RmsNorm,
    norm_k: RmsNorm,
}

/// Queries, keys and values, `[batch, tokens, inner]` each; queries and keys are normed and rotated.
pub(crate) struct QueriesKeysValues {
    q: Tensor,
    k: Tensor,
    v: Tensor,
}

impl Projections {
    /// `names` are those of the three projections and of the norms of queries and keys.
    fn load(weights: &Weights, names: [&str; 5], sizes: &BlockSizes) -> LoadResult<Self> {
        let [q, k, v, norm_q, norm_k] = names;
        let linear = |name: &str| Linear::load(&weights.pp(name), sizes.inner(), sizes.inner(), sizes.bias());
        Self::new(weights, [linear(q)?, linear(k)?, linear(v)?], [norm_q, norm_k], sizes)
    }

    /// The projections of image tokens, and of all tokens in a single-stream block.
    pub(crate) fn load_image(weights: &Weights, sizes: &BlockSizes) -> LoadResult<Self> {
        Self::load(weights, ["to_q", "to_k", "to_v", "norm_q", "norm_k"], sizes)
    }

    /// From projections that are not separate tensors in the checkpoint.
    pub(crate) fn new(
        weights: &Weights,
        [to_q, to_k, to_v]: [Linear; 3],
        norms: [&str; 2],
        sizes: &BlockSizes,
    ) -> LoadResult<Self> {
        let norm = |name: &str| RmsNorm::load(&weights.pp(name), sizes.head_dim, sizes.eps);
        let [norm_q, norm_k] = norms;
        Ok(Self { to_q, to_k, to_v, norm_q: norm(norm_q)?, norm_k: norm(norm_k)? })
    }

    /// From hidden states `[batch, tokens, inner]` at the positions of `rope`.
    pub(crate) fn forward(&self, x: &Tensor, rope: &RotaryTable) -> Result<QueriesKeysValues> {
        Ok(QueriesKeysValues {
            q: self.to_q.forward_rms_norm_rotary(x, &self.norm_q, rope)?,
            k: self.to_k.forward_rms_norm_rotary(x, &self.norm_k, rope)?,
            v: self.to_v.forward(x)?,
        })
    }
}

impl QueriesKeysValues {
    /// These tokens, then those of `other`.
    fn join(&self, other: &Self) -> Result<Self> {
        let join = |a: &Tensor, b: &Tensor| Tensor::cat(&[a, b], 1);
        Ok(Self { q: join(&self.q, &other.q)?, k: join(&self.k, &other.k)?, v: join(&self.v, &other.v)? })
    }

    /// Every token of the sequence attends to every token: `[batch, tokens, inner]` of those that are here.
    pub(crate) fn attend(&self, ops: Ops, heads: usize, sequence: &Sequence) -> Result<Tensor> {
        sequence.attention(ops, &self.q, &self.k, &self.v, heads)
    }
}

/// `attn` of a dual-stream block: each stream has projections of its own, and every token attends to all of
/// both.
#[derive(Debug)]
pub(crate) struct JointAttention {
    image: Projections,
    text: Projections,
    to_out: Linear,
    to_add_out: Linear,
    heads: usize,
}

impl JointAttention {
    pub(crate) fn load(weights: &Weights, sizes: &BlockSizes) -> LoadResult<Self> {
        let added = ["add_q_proj", "add_k_proj", "add_v_proj", "norm_added_q", "norm_added_k"];
        let linear = |name: &str| Linear::load(&weights.pp(name), sizes.inner(), sizes.inner(), sizes.bias());
        Ok(Self {
            image: Projections::load_image(weights, sizes)?,
            text: Projections::load(weights, added, sizes)?,
            to_out: linear("to_out.0")?,
            to_add_out: linear("to_add_out")?,
            heads: sizes.heads,
        })
    }

    /// Text and image, `[batch, tokens, inner]` each, to the same shapes.
    pub(crate) fn forward(
        &self,
        text: &Tensor,
        image: &Tensor,
        positions: &JointPositions,
    ) -> Result<(Tensor, Tensor)> {
        let of_text = self.text.forward(text, positions.text())?;
        let of_image = self.image.forward(image, positions.image())?;
        let joint = of_text.join(&of_image)?;
        let attended = joint.attend(self.to_out.ops(), self.heads, positions.sequence())?;
        let (text_tokens, image_tokens) = (text.dim(1)?, image.dim(1)?);
        Ok((
            self.to_add_out.forward(&attended.narrow(1, 0, text_tokens)?)?,
            self.to_out.forward(&attended.narrow(1, text_tokens, image_tokens)?)?,
        ))
    }
}

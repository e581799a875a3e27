//! A block: attention and a gated feed-forward, each between two norms.

use candle_core::{DType, Result, Tensor};

use super::ZImageConfig;
use crate::{
    checkpoint::{Ops, Weights},
    mmdit::LoadResult,
    nn::{Linear, RmsNorm, RotaryTable, add, silu},
    ranks::Sequence,
};

/// The parts of a block that caches can surround, as the checkpoints call them. What they return is normed,
/// gated and added outside.
pub(super) const ATTENTION: &str = "attention";
pub(super) const FEED_FORWARD: &str = "feed_forward";

/// `layers.N`, `noise_refiner.N` or `context_refiner.N`.
#[derive(Debug)]
pub(super) struct Block {
    /// Scale and gate of the attention, then of the feed-forward; none in `context_refiner`.
    modulation: Option<Linear>,
    attention_norm1: RmsNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    norm_q: RmsNorm,
    norm_k: RmsNorm,
    attention_norm2: RmsNorm,
    ffn_norm1: RmsNorm,
    w1: Linear,
    w2: Linear,
    w3: Linear,
    ffn_norm2: RmsNorm,
    heads: usize,
    ops: Ops,
}

/// The tokens of a sequence: how they are rotated, and which of them are here.
#[derive(Clone, Debug)]
pub(super) struct Tokens {
    pub(super) rope: RotaryTable,
    pub(super) sequence: Sequence,
}

/// A block's norms at one timestep: scales are part of the weights of the norms before, gates of those
/// after, because a norm without shift commutes with them.
struct Norms {
    before_attention: RmsNorm,
    after_attention: RmsNorm,
    before_feed_forward: RmsNorm,
    after_feed_forward: RmsNorm,
}

/// A part of a block with its name and input, which may be run or replaced.
pub(super) type Part<'p> = &'p dyn Fn(&Tensor) -> Result<Tensor>;

/// Runs a part.
pub(super) fn run(_: &'static str, x: &Tensor, part: Part<'_>) -> Result<Tensor> {
    part(x)
}

impl Block {
    pub(super) fn load(weights: &Weights, config: &ZImageConfig, modulated: bool) -> LoadResult<Self> {
        let (dim, hidden, head) = (config.dim, config.hidden(), config.head_dim());
        let (attention, feed_forward) = (weights.pp(ATTENTION), weights.pp(FEED_FORWARD));
        let norm = |name: &str| RmsNorm::load(&weights.pp(name), dim, config.norm_eps);
        let of_head = |name: &str| RmsNorm::load(&attention.pp(name), head, config.norm_eps);
        let linear = |of: &Weights, name: &str, [inputs, outputs]: [usize; 2]| {
            Linear::load(&of.pp(name), inputs, outputs, false)
        };
        let modulation = || Linear::load(&weights.pp("adaLN_modulation.0"), config.embedded(), 4 * dim, true);
        Ok(Self {
            modulation: modulated.then(modulation).transpose()?,
            attention_norm1: norm("attention_norm1")?,
            to_q: linear(&attention, "to_q", [dim, dim])?,
            to_k: linear(&attention, "to_k", [dim, dim])?,
            to_v: linear(&attention, "to_v", [dim, dim])?,
            to_out: linear(&attention, "to_out.0", [dim, dim])?,
            norm_q: of_head("norm_q")?,
            norm_k: of_head("norm_k")?,
            attention_norm2: norm("attention_norm2")?,
            ffn_norm1: norm("ffn_norm1")?,
            w1: linear(&feed_forward, "w1", [dim, hidden])?,
            w2: linear(&feed_forward, "w2", [hidden, dim])?,
            w3: linear(&feed_forward, "w3", [dim, hidden])?,
            ffn_norm2: norm("ffn_norm2")?,
            heads: config.n_heads,
            ops: weights.ops(),
        })
    }

    /// `[1, tokens, dim]` to the same shape, for the embedding `[1, embedded]` of the timestep; `part` runs
    /// the attention and the feed-forward, or replaces them.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        time: &Tensor,
        tokens: &Tokens,
        part: &mut dyn FnMut(&'static str, &Tensor, Part<'_>) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let norms = self.norms(time)?;
        let y = part(ATTENTION, &norms.before_attention.forward(x)?, &|x| self.attend(x, tokens))?;
        let x = add(self.ops, x, &norms.after_attention.forward(&y)?)?;
        let y = part(FEED_FORWARD, &norms.before_feed_forward.forward(&x)?, &|x| self.feed_forward(x))?;
        add(self.ops, &x, &norms.after_feed_forward.forward(&y)?)
    }

    /// The input of the attention.
    pub(super) fn modulated_input(&self, x: &Tensor, time: &Tensor) -> Result<Tensor> {
        self.norms(time)?.before_attention.forward(x)
    }

    /// The modulation `[1, 4 * dim]` of this block.
    pub(super) fn projection(&self, time: &Tensor) -> Result<Tensor> {
        match &self.modulation {
            Some(linear) => linear.forward(time),
            None => candle_core::bail!("a block without a modulation"),
        }
    }

    fn norms(&self, time: &Tensor) -> Result<Norms> {
        let all = [&self.attention_norm1, &self.attention_norm2, &self.ffn_norm1, &self.ffn_norm2];
        let [before_attention, after_attention, before_feed_forward, after_feed_forward] =
            match &self.modulation {
                None => all.map(Clone::clone),
                Some(linear) => {
                    let rows = linear.forward(time)?.to_dtype(DType::F32)?.squeeze(0)?;
                    let factor = |i: usize, norm: &RmsNorm| -> Result<RmsNorm> {
                        let channels = norm.weight().elem_count();
                        let row = rows.narrow(0, i * channels, channels)?;
                        let row = if i.is_multiple_of(2) { row.affine(1.0, 1.0)? } else { row.tanh()? };
                        Ok(RmsNorm::new(self.ops, (norm.weight() * row)?, norm.eps()))
                    };
                    let [a, b, c, d] = all;
                    [factor(0, a)?, factor(1, b)?, factor(2, c)?, factor(3, d)?]
                }
            };
        Ok(Norms { before_attention, after_attention, before_feed_forward, after_feed_forward })
    }

    fn attend(&self, x: &Tensor, tokens: &Tokens) -> Result<Tensor> {
        let q = self.to_q.forward_rms_norm_rotary(x, &self.norm_q, &tokens.rope)?;
        let k = self.to_k.forward_rms_norm_rotary(x, &self.norm_k, &tokens.rope)?;
        let v = self.to_v.forward(x)?;
        self.to_out.forward(&tokens.sequence.attention(self.ops, &q, &k, &v, self.heads)?)
    }

    fn feed_forward(&self, x: &Tensor) -> Result<Tensor> {
        let gate = silu(self.ops, &self.w1.forward(x)?)?;
        self.w2.forward(&self.w3.forward_times(x, &gate)?)
    }
}

//! One transformer block: self-attention, cross-attention, feed-forward.

use candle_core::{Result, Tensor};
use magcache_core::{Modules, Streams};

use super::attention::{CrossAttention, KeysValues, SelfAttention};
use super::modulation::{Parts, TimestepProjection};
use super::{LoadResult, WanConfig};
use crate::{
    checkpoint::Weights,
    nn::{LayerNorm, Linear, RotaryTable, add},
    ranks::Sequence,
};

/// The parts of a block that caches can surround, as the checkpoint calls them.
pub(super) const MODULES: &[&str] = &[SELF_ATTENTION, CROSS_ATTENTION];
const SELF_ATTENTION: &str = "attn1";
const CROSS_ATTENTION: &str = "attn2";

/// `blocks.N` of the checkpoint.
#[derive(Debug)]
pub(super) struct WanBlock {
    /// `[1, 6, inner]`, kept in f32: shift, scale, gate of the attention, then of the feed-forward.
    scale_shift_table: Tensor,
    attn1: SelfAttention,
    norm2: Option<LayerNorm>,
    attn2: CrossAttention,
    ffn_in: Linear,
    ffn_out: Linear,
    eps: f64,
}

impl WanBlock {
    pub(super) fn load(weights: &Weights, config: &WanConfig) -> LoadResult<Self> {
        let inner = config.inner_dim();
        let norm2 = config
            .cross_attn_norm
            .then(|| LayerNorm::load(&weights.pp("norm2"), inner, config.eps))
            .transpose()?;
        Ok(Self {
            scale_shift_table: weights.get_f32("scale_shift_table", &[1, 6, inner])?,
            attn1: SelfAttention::load(&weights.pp("attn1"), config)?,
            norm2,
            attn2: CrossAttention::load(&weights.pp("attn2"), config)?,
            ffn_in: Linear::load(&weights.pp("ffn.net.0.proj"), inner, config.ffn_dim, true)?,
            ffn_out: Linear::load(&weights.pp("ffn.net.2"), config.ffn_dim, inner, true)?,
            eps: config.eps,
        })
    }

    /// The layer whose keys and values are constant as long as the prompt is.
    pub(super) fn cross_attention(&self) -> &CrossAttention {
        &self.attn2
    }

    /// Hidden states `[batch, tokens, inner]` to the same shape; `time` comes from the time embedder, angles
    /// are those of the tokens of the sequence that are here.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        time: &TimestepProjection,
        (rope, sequence): (&RotaryTable, &Sequence),
        context: &KeysValues,
        modules: &mut Modules<'_>,
    ) -> Result<Tensor> {
        let [attention, feed_forward] = self.modulations(time)?;
        let attended = modules
            .module(SELF_ATTENTION, Streams::Image(attention.norm(x, self.eps)?), |x| {
                x.map_image(|x| self.attn1.forward(x, rope, sequence))
            })?
            .into_image()?;
        let x = attention.add(x, &attended)?;

        let normed = match &self.norm2 {
            Some(norm) => norm.forward(&x)?,
            None => x.clone(),
        };
        let attended = modules
            .module(CROSS_ATTENTION, Streams::Image(normed), |x| {
                x.map_image(|x| self.attn2.forward(x, context))
            })?
            .into_image()?;
        let x = add(self.ffn_in.ops(), &x, &attended)?;

        feed_forward.feed_forward(&x, &self.ffn_in, &self.ffn_out, self.eps)
    }

    /// Input of the self-attention: the block's input, normalised, scaled and shifted by the timestep; where
    /// the tokens have two, of those with the first.
    pub(super) fn modulated_input(&self, x: &Tensor, time: &TimestepProjection) -> Result<Tensor> {
        let [attention, _] = self.modulations(time)?;
        attention.norm_first(x, self.eps)
    }

    /// Those of the self-attention and of the feed-forward.
    fn modulations(&self, time: &TimestepProjection) -> Result<[Parts; 2]> {
        Parts::of_block(self.ffn_in.ops(), &self.scale_shift_table, time)
    }
}

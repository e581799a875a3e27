//! One transformer block: self-attention, cross-attention, feed-forward.

use candle_core::{D, Result, Tensor};
use magcache_core::{Modules, Streams};

use super::attention::{CrossAttention, KeysValues, SelfAttention};
use super::{LoadResult, WanConfig};
use crate::checkpoint::{Ops, Weights};
use crate::nn::{LayerNorm, Linear, RotaryTable, add, feed_forward, gated_add, layer_norm_modulate};

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

    /// Hidden states `[batch, tokens, inner]` to the same shape; `timestep_proj` comes from the time
    /// embedder.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        timestep_proj: &Tensor,
        rope: &RotaryTable,
        context: &KeysValues,
        modules: &mut Modules<'_>,
    ) -> Result<Tensor> {
        let modulation = Modulation::new(&self.scale_shift_table, timestep_proj)?;
        let attended = modules
            .module(SELF_ATTENTION, Streams::Image(self.modulated(x, &modulation)?), |x| {
                x.map_image(|x| self.attn1.forward(x, rope))
            })?
            .into_image()?;
        let x = gated_add(self.ffn_in.ops(), x, &attended, modulation.gate(Half::Attention))?;

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

        let normed = modulation.norm(self.ffn_in.ops(), &x, Half::FeedForward, self.eps)?;
        feed_forward(&normed, &self.ffn_in, &self.ffn_out, &x, modulation.gate(Half::FeedForward))
    }

    /// Input of the self-attention: the block's input, normalised, scaled and shifted by the timestep.
    pub(super) fn modulated_input(&self, x: &Tensor, timestep_proj: &Tensor) -> Result<Tensor> {
        self.modulated(x, &Modulation::new(&self.scale_shift_table, timestep_proj)?)
    }

    fn modulated(&self, x: &Tensor, modulation: &Modulation) -> Result<Tensor> {
        modulation.norm(self.ffn_in.ops(), x, Half::Attention, self.eps)
    }
}

/// The half of a block that a shift, scale and gate belong to; the value is the index of its shift.
#[derive(Clone, Copy)]
enum Half {
    Attention = 0,
    FeedForward = 3,
}

/// Six rows `[batch, 1 or tokens, inner]`: table plus projected timestep.
struct Modulation([Tensor; 6]);

impl Modulation {
    /// `timestep_proj` is `[batch, 6 * inner]`, or `[batch, tokens, 6 * inner]` with one timestep per token.
    fn new(table: &Tensor, timestep_proj: &Tensor) -> Result<Self> {
        let inner = table.dim(D::Minus1)?;
        let per_token = match timestep_proj.dims() {
            [batch, _] => timestep_proj.reshape((*batch, 1, 6 * inner))?,
            _ => timestep_proj.clone(),
        };
        let rows = per_token.broadcast_add(&table.reshape((1, 1, 6 * inner))?)?;
        let row = |i: usize| rows.narrow(2, i * inner, inner);
        Ok(Self([row(0)?, row(1)?, row(2)?, row(3)?, row(4)?, row(5)?]))
    }

    fn norm(&self, ops: Ops, x: &Tensor, half: Half, eps: f64) -> Result<Tensor> {
        let [shift, scale] = [&self.0[half as usize], &self.0[half as usize + 1]];
        layer_norm_modulate(ops, x, shift, scale, eps)
    }

    fn gate(&self, half: Half) -> &Tensor {
        &self.0[half as usize + 2]
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::wan::WanRope;
    use crate::wan::testing::{close, golden};

    #[test]
    fn the_parts_of_a_block_equal_the_reference() -> Result<()> {
        let case = golden("wan21_t2v");
        let block = WanBlock::load(&case.weights.pp("blocks.0"), &case.config).expect("loads");
        let part = |name: &str| case.tensor(&format!("b1_odd.trace.blocks.0.{name}"));
        let rope = WanRope::new(&case.config).table([3, 2, 3], &Device::Cpu)?;
        close("attn1", &block.attn1.forward(&part("modulated_input"), &rope)?, &part("attn1.out"));

        let text = case.tensor("b1_odd.trace.text_embedder.out");
        let context = block.attn2.keys_values(&text, None)?;
        close("attn2", &block.attn2.forward(&part("attn2.in"), &context)?, &part("attn2.out"));
        let hidden = block.ffn_in.forward_gelu_tanh(&part("ffn.in"))?;
        close("ffn", &block.ffn_out.forward(&hidden)?, &part("ffn.out"));

        let projected = case.tensor("b1_odd.trace.timestep_proj");
        let x = case.tensor("b1_odd.trace.patch_embedding.out").flatten_from(2)?.transpose(1, 2)?;
        close("modulated input", &block.modulated_input(&x, &projected)?, &part("modulated_input"));
        close("block", &block.forward(&x, &projected, &rope, &context, &mut Modules::off())?, &part("out"));
        Ok(())
    }
}

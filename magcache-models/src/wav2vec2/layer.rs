//! A layer of the encoder.

use candle_core::{Result, Tensor};

use super::Wav2Vec2Config;
use crate::{
    checkpoint::{CheckpointError, Weights},
    nn::{LayerNorm, Linear, attention},
};

/// Self-attention and a feed-forward layer, each after a norm and with a residual connection
/// (`do_stable_layer_norm`).
#[derive(Clone, Debug)]
pub(super) struct EncoderLayer {
    layer_norm: LayerNorm,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    heads: usize,
    final_layer_norm: LayerNorm,
    intermediate_dense: Linear,
    output_dense: Linear,
}

impl EncoderLayer {
    pub(super) fn load(
        weights: &Weights,
        config: &Wav2Vec2Config,
    ) -> std::result::Result<Self, CheckpointError> {
        let (channels, hidden) = (config.hidden_size, config.intermediate_size);
        let (own, feed_forward) = (weights.pp("attention"), weights.pp("feed_forward"));
        let projection = |name: &str| Linear::load(&own.pp(name), channels, channels, true);
        let norm = |name: &str| LayerNorm::load(&weights.pp(name), channels, config.layer_norm_eps);
        Ok(Self {
            layer_norm: norm("layer_norm")?,
            q_proj: projection("q_proj")?,
            k_proj: projection("k_proj")?,
            v_proj: projection("v_proj")?,
            out_proj: projection("out_proj")?,
            heads: config.num_attention_heads,
            final_layer_norm: norm("final_layer_norm")?,
            intermediate_dense: Linear::load(&feed_forward.pp("intermediate_dense"), channels, hidden, true)?,
            output_dense: Linear::load(&feed_forward.pp("output_dense"), hidden, channels, true)?,
        })
    }

    /// `[1, states, channels]` to the same shape; calls `inside` with the names and outputs of both halves.
    pub(super) fn forward(
        &self,
        hidden_states: &Tensor,
        mut inside: impl FnMut(&'static str, &Tensor),
    ) -> Result<Tensor> {
        let x = self.layer_norm.forward(hidden_states)?;
        let (q, k, v) = (self.q_proj.forward(&x)?, self.k_proj.forward(&x)?, self.v_proj.forward(&x)?);
        let attended = attention(self.out_proj.ops(), &q, &k, &v, self.heads)?;
        let attended = self.out_proj.forward(&attended)?;
        inside("attention", &attended);
        let hidden_states = (hidden_states + attended)?;
        let x = self.final_layer_norm.forward(&hidden_states)?;
        let fed = self.output_dense.forward(&self.intermediate_dense.forward_gelu_erf(&x)?)?;
        inside("feed_forward", &fed);
        hidden_states + fed
    }
}

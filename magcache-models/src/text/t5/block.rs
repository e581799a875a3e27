//! One block of the encoder.

use candle_core::{Result, Tensor};

use super::{T5Config, bias::BiasTable};
use crate::{
    checkpoint::{CheckpointError, Weights},
    nn::{Linear, RmsNorm, attention_with_bias},
};

/// Self-attention and a gated feed-forward layer, each after a norm and with a residual connection.
#[derive(Clone, Debug)]
pub(super) struct T5Block {
    attention_norm: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    heads: usize,
    table: Option<BiasTable>,
    feed_forward_norm: RmsNorm,
    wi_0: Linear,
    wi_1: Linear,
    wo: Linear,
}

impl T5Block {
    /// Reads a block; `table` tells whether it has relative positions of its own.
    pub(super) fn load(
        weights: &Weights,
        config: &T5Config,
        table: bool,
    ) -> std::result::Result<Self, CheckpointError> {
        let (d_model, d_ff, inner) = (config.d_model, config.d_ff, config.inner_dim());
        let norm =
            |weights: Weights| RmsNorm::load(&weights.pp("layer_norm"), d_model, config.layer_norm_epsilon);
        let (attention, feed_forward) = (weights.pp("layer.0"), weights.pp("layer.1"));
        let own = attention.pp("SelfAttention");
        let dense = feed_forward.pp("DenseReluDense");
        Ok(Self {
            attention_norm: norm(attention)?,
            q: Linear::load(&own.pp("q"), d_model, inner, false)?,
            k: Linear::load(&own.pp("k"), d_model, inner, false)?,
            v: Linear::load(&own.pp("v"), d_model, inner, false)?,
            o: Linear::load(&own.pp("o"), inner, d_model, false)?,
            heads: config.num_heads,
            table: table.then(|| BiasTable::load(&own, config)).transpose()?,
            feed_forward_norm: norm(feed_forward)?,
            wi_0: Linear::load(&dense.pp("wi_0"), d_model, d_ff, false)?,
            wi_1: Linear::load(&dense.pp("wi_1"), d_model, d_ff, false)?,
            wo: Linear::load(&dense.pp("wo"), d_ff, d_model, false)?,
        })
    }

    pub(super) fn table(&self) -> Option<&BiasTable> {
        self.table.as_ref()
    }

    /// `[batch, tokens, d_model]` to the same shape; `bias` broadcasts to `[batch, heads, tokens, tokens]`.
    pub(super) fn forward(&self, hidden_states: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let x = self.attention_norm.forward(hidden_states)?;
        let (q, k, v) = (self.q.forward(&x)?, self.k.forward(&x)?, self.v.forward(&x)?);
        // T5 folds 1 / sqrt(d_kv) into the initialisation of its weights: the scores are not scaled.
        let attended = attention_with_bias(self.o.ops(), &q, &k, &v, self.heads, 1.0, bias)?;
        let hidden_states = self.o.forward_add(&attended, hidden_states)?;
        let x = self.feed_forward_norm.forward(&hidden_states)?;
        let gated = self.wi_1.forward_times(&x, &self.wi_0.forward_gelu_tanh(&x)?)?;
        self.wo.forward_add(&gated, &hidden_states)
    }
}

//! One block of the model.

use candle_core::{Result, Tensor};

use super::{Qwen3Config, rope::HalfRotary};
use crate::{
    checkpoint::{CheckpointError, Weights},
    nn::{Linear, RmsNorm, attention_with_bias, silu},
};

/// Self-attention and a gated feed-forward layer, each after a norm and with a residual connection.
#[derive(Clone, Debug)]
pub(super) struct Qwen3Block {
    input_layernorm: RmsNorm,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    /// Norms over the channels of one head.
    q_norm: RmsNorm,
    k_norm: RmsNorm,
    heads: usize,
    key_value_heads: usize,
    head_dim: usize,
    post_attention_layernorm: RmsNorm,
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl Qwen3Block {
    pub(super) fn load(
        weights: &Weights,
        config: &Qwen3Config,
    ) -> std::result::Result<Self, CheckpointError> {
        let (channels, hidden, bias) = (config.hidden_size, config.intermediate_size, config.attention_bias);
        let norm = |name: &str, channels| RmsNorm::load(&weights.pp(name), channels, config.rms_norm_eps);
        let (own, mlp) = (weights.pp("self_attn"), weights.pp("mlp"));
        let (inner, shared) = (config.inner_dim(), config.key_value_dim());
        Ok(Self {
            input_layernorm: norm("input_layernorm", channels)?,
            q_proj: Linear::load(&own.pp("q_proj"), channels, inner, bias)?,
            k_proj: Linear::load(&own.pp("k_proj"), channels, shared, bias)?,
            v_proj: Linear::load(&own.pp("v_proj"), channels, shared, bias)?,
            o_proj: Linear::load(&own.pp("o_proj"), inner, channels, bias)?,
            q_norm: norm("self_attn.q_norm", config.head_dim)?,
            k_norm: norm("self_attn.k_norm", config.head_dim)?,
            heads: config.num_attention_heads,
            key_value_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            post_attention_layernorm: norm("post_attention_layernorm", channels)?,
            gate_proj: Linear::load(&mlp.pp("gate_proj"), channels, hidden, false)?,
            up_proj: Linear::load(&mlp.pp("up_proj"), channels, hidden, false)?,
            down_proj: Linear::load(&mlp.pp("down_proj"), hidden, channels, false)?,
        })
    }

    /// `[batch, tokens, hidden_size]` to the same shape; `bias` broadcasts to
    /// `[batch, heads, tokens, tokens]`.
    pub(super) fn forward(
        &self,
        hidden_states: &Tensor,
        rotary: &HalfRotary,
        bias: &Tensor,
    ) -> Result<Tensor> {
        let x = self.input_layernorm.forward(hidden_states)?;
        let hidden_states = (hidden_states + self.attend(&x, rotary, bias)?)?;
        let x = self.post_attention_layernorm.forward(&hidden_states)?;
        let gated =
            self.up_proj.forward_times(&x, &silu(self.gate_proj.ops(), &self.gate_proj.forward(&x)?)?)?;
        self.down_proj.forward_add(&gated, &hidden_states)
    }

    fn attend(&self, x: &Tensor, rotary: &HalfRotary, bias: &Tensor) -> Result<Tensor> {
        let (batch, tokens, _) = x.dims3()?;
        let split = |x: Tensor, heads: usize| x.reshape((batch, tokens, heads, self.head_dim));
        let q = split(self.q_proj.forward(x)?, self.heads)?;
        let k = split(self.k_proj.forward(x)?, self.key_value_heads)?;
        let v = split(self.v_proj.forward(x)?, self.key_value_heads)?;
        let q = rotary.apply(&self.q_norm.forward(&q)?)?.flatten_from(2)?;
        let k = self.repeat(&rotary.apply(&self.k_norm.forward(&k)?)?)?;
        let scale = (self.head_dim as f64).powf(-0.5);
        self.o_proj.forward(&attention_with_bias(
            self.o_proj.ops(),
            &q,
            &k,
            &self.repeat(&v)?,
            self.heads,
            scale,
            bias,
        )?)
    }

    /// Keys or values `[batch, tokens, key_value_heads, head_dim]` to `[batch, tokens, heads * head_dim]`:
    /// each head is repeated for every query head that it serves; these are adjacent.
    fn repeat(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, tokens, shared, head_dim) = x.dims4()?;
        let served = self.heads / shared.max(1);
        x.unsqueeze(3)?.expand((batch, tokens, shared, served, head_dim))?.reshape((
            batch,
            tokens,
            self.heads * head_dim,
        ))
    }
}

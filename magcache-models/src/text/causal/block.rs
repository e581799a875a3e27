//! One block of the model.

use candle_core::{Result, Tensor};

use super::HalfRotary;
use crate::{
    checkpoint::{CheckpointError, Weights},
    nn::{Linear, RmsNorm, attention_with_bias, silu},
};

/// Self-attention and a gated feed-forward layer, each after a norm and with a residual connection.
#[derive(Clone, Debug)]
pub(in crate::text) struct CausalBlock {
    input_layernorm: RmsNorm,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    /// Norms of queries and keys over the channels of one head, in models that have them.
    qk_norm: Option<[RmsNorm; 2]>,
    heads: usize,
    key_value_heads: usize,
    head_dim: usize,
    post_attention_layernorm: RmsNorm,
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

/// The sizes of a block, with the field names of transformers.
#[derive(Clone, Copy, Debug)]
pub(in crate::text) struct CausalSizes {
    pub(in crate::text) hidden_size: usize,
    pub(in crate::text) intermediate_size: usize,
    pub(in crate::text) num_attention_heads: usize,
    pub(in crate::text) num_key_value_heads: usize,
    pub(in crate::text) head_dim: usize,
    pub(in crate::text) rms_norm_eps: f64,
    /// Whether queries, keys and values have biases, and whether the output has one.
    pub(in crate::text) bias: [bool; 2],
    /// Whether queries and keys are normed.
    pub(in crate::text) qk_norm: bool,
}

impl CausalBlock {
    pub(in crate::text) fn load(
        weights: &Weights,
        sizes: &CausalSizes,
    ) -> std::result::Result<Self, CheckpointError> {
        let (channels, hidden, [bias, out_bias]) = (sizes.hidden_size, sizes.intermediate_size, sizes.bias);
        let norm = |name: &str, channels| RmsNorm::load(&weights.pp(name), channels, sizes.rms_norm_eps);
        let (own, mlp) = (weights.pp("self_attn"), weights.pp("mlp"));
        let inner = sizes.num_attention_heads * sizes.head_dim;
        let shared = sizes.num_key_value_heads * sizes.head_dim;
        let of_head = || {
            Ok::<_, CheckpointError>([
                norm("self_attn.q_norm", sizes.head_dim)?,
                norm("self_attn.k_norm", sizes.head_dim)?,
            ])
        };
        Ok(Self {
            input_layernorm: norm("input_layernorm", channels)?,
            q_proj: Linear::load(&own.pp("q_proj"), channels, inner, bias)?,
            k_proj: Linear::load(&own.pp("k_proj"), channels, shared, bias)?,
            v_proj: Linear::load(&own.pp("v_proj"), channels, shared, bias)?,
            o_proj: Linear::load(&own.pp("o_proj"), inner, channels, out_bias)?,
            qk_norm: sizes.qk_norm.then(of_head).transpose()?,
            heads: sizes.num_attention_heads,
            key_value_heads: sizes.num_key_value_heads,
            head_dim: sizes.head_dim,
            post_attention_layernorm: norm("post_attention_layernorm", channels)?,
            gate_proj: Linear::load(&mlp.pp("gate_proj"), channels, hidden, false)?,
            up_proj: Linear::load(&mlp.pp("up_proj"), channels, hidden, false)?,
            down_proj: Linear::load(&mlp.pp("down_proj"), hidden, channels, false)?,
        })
    }

    /// `[batch, tokens, hidden_size]` to the same shape; `bias` broadcasts to
    /// `[batch, heads, tokens, tokens]`.
    pub(in crate::text) fn forward(
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
        let [q, k] = match &self.qk_norm {
            Some([q_norm, k_norm]) => [q_norm.forward(&q)?, k_norm.forward(&k)?],
            None => [q, k],
        };
        let q = rotary.apply(&q)?.flatten_from(2)?;
        let k = self.repeat(&rotary.apply(&k)?)?;
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

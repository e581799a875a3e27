//! The blocks of an encoder.

use candle_core::{Result, Tensor};

use super::Activation;
use crate::{
    checkpoint::{CheckpointError, Ops, Weights},
    nn::{LayerNorm, Linear, attention, attention_with_bias, gelu_erf, silu},
};

/// Sizes of a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct LayerSizes {
    pub(super) channels: usize,
    pub(super) hidden: usize,
    pub(super) heads: usize,
    pub(super) eps: f64,
    pub(super) activation: Activation,
}

/// `encoder.layers`.
#[derive(Clone, Debug)]
pub(super) struct ClipLayers(Vec<ClipLayer>);

impl ClipLayers {
    /// The first `count` blocks.
    pub(super) fn load(
        weights: &Weights,
        count: usize,
        sizes: &LayerSizes,
    ) -> std::result::Result<Self, CheckpointError> {
        let layer = |i: usize| ClipLayer::load(&weights.pp(format_args!("encoder.layers.{i}")), sizes);
        (0..count).map(layer).collect::<std::result::Result<_, _>>().map(Self)
    }

    /// The output of the last block; calls `before` with the input of each.
    pub(super) fn forward(
        &self,
        mut hidden_states: Tensor,
        bias: Option<&Tensor>,
        mut before: impl FnMut(&Tensor),
    ) -> Result<Tensor> {
        for layer in &self.0 {
            before(&hidden_states);
            hidden_states = layer.forward(&hidden_states, bias)?;
        }
        Ok(hidden_states)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Self-attention and a feed-forward layer, each after a norm and with a residual connection.
#[derive(Clone, Debug)]
struct ClipLayer {
    layer_norm1: LayerNorm,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    heads: usize,
    scale: f64,
    layer_norm2: LayerNorm,
    fc1: Linear,
    activation: Activation,
    fc2: Linear,
}

impl ClipLayer {
    fn load(weights: &Weights, sizes: &LayerSizes) -> std::result::Result<Self, CheckpointError> {
        let (channels, hidden) = (sizes.channels, sizes.hidden);
        let own = weights.pp("self_attn");
        let projection = |name: &str| Linear::load(&own.pp(name), channels, channels, true);
        Ok(Self {
            layer_norm1: LayerNorm::load(&weights.pp("layer_norm1"), channels, sizes.eps)?,
            q_proj: projection("q_proj")?,
            k_proj: projection("k_proj")?,
            v_proj: projection("v_proj")?,
            out_proj: projection("out_proj")?,
            heads: sizes.heads,
            // The default scale of `attention`.
            scale: ((channels / sizes.heads.max(1)) as f64).powf(-0.5),
            layer_norm2: LayerNorm::load(&weights.pp("layer_norm2"), channels, sizes.eps)?,
            fc1: Linear::load(&weights.pp("mlp.fc1"), channels, hidden, true)?,
            activation: sizes.activation,
            fc2: Linear::load(&weights.pp("mlp.fc2"), hidden, channels, true)?,
        })
    }

    /// `[batch, tokens, channels]` to the same shape; `bias` is added to the scores and broadcasts to
    /// `[batch, heads, tokens, tokens]`.
    fn forward(&self, hidden_states: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let x = self.layer_norm1.forward(hidden_states)?;
        let (q, k, v) = (self.q_proj.forward(&x)?, self.k_proj.forward(&x)?, self.v_proj.forward(&x)?);
        let attended = match bias {
            None => attention(self.fc1.ops(), &q, &k, &v, self.heads)?,
            Some(bias) => attention_with_bias(self.fc1.ops(), &q, &k, &v, self.heads, self.scale, bias)?,
        };
        let hidden_states = (hidden_states + self.out_proj.forward(&attended)?)?;
        let x = self.fc1.forward(&self.layer_norm2.forward(&hidden_states)?)?;
        &hidden_states + self.fc2.forward(&self.activation.forward(self.fc1.ops(), &x)?)?
    }
}

impl Activation {
    /// Element by element, any shape.
    fn forward(self, ops: Ops, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Gelu => gelu_erf(ops, x),
            Self::QuickGelu => silu(ops, &(x * 1.702)?)? / 1.702,
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn quick_gelu_is_x_times_a_steep_sigmoid() -> Result<()> {
        let x = [-30f32, -2.0, -0.5, 0.0, 0.7, 3.0, 30.0];
        let ours =
            Activation::QuickGelu.forward(Ops::Kernels, &Tensor::new(&x, &Device::Cpu)?)?.to_vec1::<f32>()?;
        for (x, ours) in x.into_iter().zip(ours) {
            let exact = f64::from(x) / (1.0 + (-1.702 * f64::from(x)).exp());
            assert!((f64::from(ours) - exact).abs() < 1e-6 * exact.abs().max(1.0), "{x}: {ours} {exact}");
        }
        Ok(())
    }
}

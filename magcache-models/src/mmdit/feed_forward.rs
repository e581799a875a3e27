//! Two linear layers with an activation between them.

use candle_core::{Result, Tensor};

use super::{BlockSizes, Form, LoadResult};
use crate::checkpoint::Weights;
use crate::nn::{Linear, feed_forward, swiglu};

impl Form {
    /// Channels before the activation for `hidden` channels after it.
    pub(crate) fn before_activation(self, hidden: usize) -> usize {
        match self {
            Self::Gelu => hidden,
            Self::SwiGlu => 2 * hidden,
        }
    }

    /// A linear layer and the activation.
    pub(crate) fn activated(self, layer: &Linear, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Gelu => layer.forward_gelu_tanh(x),
            Self::SwiGlu => swiglu(layer.ops(), &layer.forward(x)?),
        }
    }
}

/// `ff` or `ff_context` of a dual-stream block.
#[derive(Debug)]
pub(crate) struct FeedForward {
    form: Form,
    input: Linear,
    output: Linear,
}

impl FeedForward {
    pub(crate) fn load(weights: &Weights, sizes: &BlockSizes) -> LoadResult<Self> {
        let BlockSizes { form, hidden, .. } = *sizes;
        let (input, output) = match form {
            Form::Gelu => ("net.0.proj", "net.2"),
            Form::SwiGlu => ("linear_in", "linear_out"),
        };
        let linear = |name: &str, inputs: usize, outputs: usize| {
            Linear::load(&weights.pp(name), inputs, outputs, sizes.bias())
        };
        Ok(Self {
            form,
            input: linear(input, sizes.inner(), form.before_activation(hidden))?,
            output: linear(output, hidden, sizes.inner())?,
        })
    }

    /// `f(x)`, `[batch, tokens, inner]` to the same shape.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.output.forward(&self.form.activated(&self.input, x)?)
    }

    /// `residual + gate * f(x)`, all `[batch, tokens, inner]`; the gate broadcasts.
    pub(crate) fn forward_gated_add(&self, x: &Tensor, residual: &Tensor, gate: &Tensor) -> Result<Tensor> {
        match self.form {
            Form::Gelu => feed_forward(x, &self.input, &self.output, residual, gate),
            Form::SwiGlu => {
                self.output.forward_gated_add(&self.form.activated(&self.input, x)?, residual, gate)
            }
        }
    }
}

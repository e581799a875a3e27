//! Two linear layers with an activation between them.

use candle_core::{Result, Tensor};

use super::LoadResult;
use crate::checkpoint::Weights;
use crate::nn::{Linear, feed_forward, swiglu};

/// The activation between the layers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Activation {
    /// FLUX.1.
    GeluTanh,
    /// FLUX.2; the layer before it has twice the channels.
    SwiGlu,
}

impl Activation {
    /// Channels of its input for `hidden` channels of output.
    pub(crate) fn inputs(self, hidden: usize) -> usize {
        match self {
            Self::GeluTanh => hidden,
            Self::SwiGlu => 2 * hidden,
        }
    }

    /// Applies the activation after a linear layer.
    pub(crate) fn after(self, layer: &Linear, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::GeluTanh => layer.forward_gelu_tanh(x),
            Self::SwiGlu => swiglu(layer.ops(), &layer.forward(x)?),
        }
    }
}

/// `ff` or `ff_context` of a dual-stream block.
#[derive(Debug)]
pub(crate) struct FeedForward {
    input: Linear,
    activation: Activation,
    output: Linear,
}

impl FeedForward {
    /// `hidden` channels after the activation; FLUX.2 has no biases.
    pub(crate) fn load(
        weights: &Weights,
        inner: usize,
        hidden: usize,
        activation: Activation,
    ) -> LoadResult<Self> {
        let (input, output, bias) = match activation {
            Activation::GeluTanh => ("net.0.proj", "net.2", true),
            Activation::SwiGlu => ("linear_in", "linear_out", false),
        };
        Ok(Self {
            input: Linear::load(&weights.pp(input), inner, activation.inputs(hidden), bias)?,
            activation,
            output: Linear::load(&weights.pp(output), hidden, inner, bias)?,
        })
    }

    /// `residual + gate * f(x)`, all `[batch, tokens, inner]`; the gate broadcasts.
    pub(crate) fn forward_gated_add(&self, x: &Tensor, residual: &Tensor, gate: &Tensor) -> Result<Tensor> {
        match self.activation {
            Activation::GeluTanh => feed_forward(x, &self.input, &self.output, residual, gate),
            Activation::SwiGlu => {
                self.output.forward_gated_add(&self.activation.after(&self.input, x)?, residual, gate)
            }
        }
    }
}

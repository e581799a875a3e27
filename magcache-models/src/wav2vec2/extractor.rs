//! The convolutions in front of the encoder.

use candle_core::{Result, Tensor};

use super::Wav2Vec2Config;
use crate::{
    checkpoint::{CheckpointError, Ops, Weights},
    nn::{Conv1d, Conv1dConfig, LayerNorm, gelu_erf},
};

/// States computed at a time: five seconds, whose values behind the first convolution take 34 MB in a large
/// model. States see some samples of their neighbours', which are computed again, to the same bits.
const PIECE: usize = 256;

/// Added to the variance in the norms of the convolutions, whatever the configuration says.
const EPS: f64 = 1e-5;

/// `feature_extractor`.
#[derive(Clone, Debug)]
pub(super) struct FeatureExtractor {
    config: Wav2Vec2Config,
    layers: Vec<ConvLayer>,
    ops: Ops,
}

/// A convolution and the norm over its channels.
#[derive(Clone, Debug)]
struct ConvLayer {
    conv: Conv1d,
    layer_norm: LayerNorm,
}

impl FeatureExtractor {
    pub(super) fn load(
        weights: &Weights,
        config: &Wav2Vec2Config,
    ) -> std::result::Result<Self, CheckpointError> {
        let (weights, mut inputs, mut layers) = (weights.pp("conv_layers"), 1, Vec::new());
        for (i, (outputs, kernel, stride)) in config.convolutions().enumerate() {
            let weights = weights.pp(i);
            let shape = Conv1dConfig { kernel, stride, padding: (0, 0), groups: 1 };
            layers.push(ConvLayer {
                conv: Conv1d::load(&weights.pp("conv"), inputs, outputs, shape)?,
                layer_norm: LayerNorm::load(&weights.pp("layer_norm"), outputs, EPS)?,
            });
            inputs = outputs;
        }
        Ok(Self { config: config.clone(), layers, ops: weights.ops() })
    }

    /// Samples `[1, samples]` to `[1, states, channels]`; calls `behind` with the output of every layer for
    /// the states from its second argument on.
    pub(super) fn forward(
        &self,
        input_values: &Tensor,
        mut behind: impl FnMut(usize, usize, &Tensor),
    ) -> Result<Tensor> {
        let states = self.config.states(input_values.dim(1)?);
        let hop: usize = self.config.conv_stride.iter().product();
        let mut pieces = Vec::with_capacity(states.div_ceil(PIECE));
        for first in (0..states).step_by(PIECE) {
            let samples = self.config.samples(PIECE.min(states - first));
            let mut x = input_values.narrow(1, first * hop, samples)?.unsqueeze(2)?;
            for (i, layer) in self.layers.iter().enumerate() {
                x = gelu_erf(self.ops, &layer.layer_norm.forward(&layer.conv.forward(&x)?)?)?;
                behind(i, first, &x);
            }
            pieces.push(x);
        }
        Tensor::cat(&pieces, 1)
    }
}

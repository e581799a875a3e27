//! The convolution that stands for positions.

use candle_core::{DType, Result, Tensor};

use super::Wav2Vec2Config;
use crate::{
    checkpoint::{CheckpointError, Ops, Weights},
    nn::{Conv1d, Conv1dConfig, gelu_erf},
};

/// `encoder.pos_conv_embed`.
#[derive(Clone, Debug)]
pub(super) struct PositionalConv {
    conv: Conv1d,
    ops: Ops,
}

impl PositionalConv {
    /// Reads the kernel as gain and direction, in the names of torch's old or new weight norm; there is one
    /// gain per tap.
    pub(super) fn load(
        weights: &Weights,
        config: &Wav2Vec2Config,
    ) -> std::result::Result<Self, CheckpointError> {
        const OLD: [&str; 2] = ["weight_g", "weight_v"];
        const NEW: [&str; 2] = ["parametrizations.weight.original0", "parametrizations.weight.original1"];
        let weights = weights.pp("conv");
        let (channels, kernel) = (config.hidden_size, config.num_conv_pos_embeddings);
        let groups = config.num_conv_pos_embedding_groups;
        let [gain, direction] = if weights.contains(NEW[0]) { NEW } else { OLD };
        let gain = weights.get_f32(gain, &[1, 1, kernel])?;
        let direction = weights.get_f32(direction, &[channels, channels / groups, kernel])?;
        // An even kernel would give a token too many; the reference drops the last.
        let padding = (kernel / 2, (kernel - 1) / 2);
        let shape = Conv1dConfig { kernel, stride: 1, padding, groups };
        let bias = weights.get_f32("bias", &[channels])?;
        let conv = Conv1d::new(weights.ops(), normed(&gain, &direction)?, bias, shape)?;
        Ok(Self { conv, ops: weights.ops() })
    }

    /// `[1, states, channels]` to the same shape.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        gelu_erf(self.ops, &self.conv.forward(x)?)
    }
}

/// The direction `[out, in, taps]`, scaled to the length `gain` `[1, 1, taps]` of each tap.
fn normed(gain: &Tensor, direction: &Tensor) -> Result<Tensor> {
    // A tap of a large model has 65536 values: too many to add up in f32.
    let length = direction.to_dtype(DType::F64)?.sqr()?.sum_keepdim((0, 1))?.sqrt()?;
    let scale = (gain.to_dtype(DType::F64)? / length)?.to_dtype(DType::F32)?;
    direction.broadcast_mul(&scale)
}

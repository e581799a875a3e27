//! The steps between resolutions. Tensors are `[batch, frames, height, width, channels]`.

use candle_core::Tensor;

use super::cache::{CausalConv, FeatureCache, Slots};
use crate::{
    checkpoint::{CheckpointError, Weights},
    nn::{Conv3d, Conv3dConfig, nearest},
};

/// Halves height and width and, with `time`, the frames of every chunk but the first.
#[derive(Clone, Debug)]
pub(super) struct Downsample {
    conv: Conv3d,
    time: Option<CausalConv>,
}

impl Downsample {
    pub(super) fn load(
        weights: &Weights,
        channels: usize,
        time: bool,
        slots: &mut Slots,
    ) -> Result<Self, CheckpointError> {
        let config = Conv3dConfig { kernel: [1, 3, 3], stride: [1, 2, 2], padding: [(0, 0), (0, 1), (0, 1)] };
        let conv = Conv3d::load_2d(&weights.pp("resample.1"), channels, channels, config)?;
        let time = time
            .then(|| CausalConv::load_over_frames(&weights.pp("time_conv"), channels, channels, 2, slots))
            .transpose()?;
        Ok(Self { conv, time })
    }

    pub(super) fn forward(&self, x: &Tensor, cache: &mut FeatureCache) -> candle_core::Result<Tensor> {
        let x = self.conv.forward(x)?;
        match &self.time {
            None => Ok(x),
            Some(time) if cache.first_chunk() => {
                time.skip(&x, cache)?;
                Ok(x)
            }
            Some(time) => time.forward(&x, cache),
        }
    }
}

/// Doubles height and width and, with `time`, the frames of every chunk but the first.
#[derive(Clone, Debug)]
pub(super) struct Upsample {
    conv: Conv3d,
    time: Option<CausalConv>,
}

impl Upsample {
    pub(super) fn load(
        weights: &Weights,
        inputs: usize,
        outputs: usize,
        time: bool,
        slots: &mut Slots,
    ) -> Result<Self, CheckpointError> {
        let config = Conv3dConfig { kernel: [1, 3, 3], stride: [1; 3], padding: [(0, 0), (1, 1), (1, 1)] };
        let conv = Conv3d::load_2d(&weights.pp("resample.1"), inputs, outputs, config)?;
        let time = time
            .then(|| CausalConv::load_over_frames(&weights.pp("time_conv"), inputs, 2 * inputs, 1, slots))
            .transpose()?;
        Ok(Self { conv, time })
    }

    /// The first chunk bypasses the convolution in time and leaves no trace in it: the second chunk sees
    /// zeros.
    pub(super) fn forward(&self, x: &Tensor, cache: &mut FeatureCache) -> candle_core::Result<Tensor> {
        match &self.time {
            Some(time) if !cache.first_chunk() => {
                let mut x = time.forward(x, cache)?;
                x = interleaved(&x)?;
                x = nearest(&x)?;
                self.conv.forward(&x)
            }
            _ => self.conv.forward(&nearest(x)?),
        }
    }
}

/// `[.., frames, .., 2 * channels]` to `[.., 2 * frames, .., channels]`: the halves become consecutive
/// frames.
fn interleaved(x: &Tensor) -> candle_core::Result<Tensor> {
    let (batch, frames, height, width, channels) = x.dims5()?;
    x.reshape(&[batch, frames, height, width, 2, channels / 2])?
        .permute([0, 1, 4, 2, 3, 5].as_slice())?
        .reshape((batch, 2 * frames, height, width, channels / 2))
}

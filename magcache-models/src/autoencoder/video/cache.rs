//! What a stream remembers between chunks of frames.
//!
//! A causal convolution looks back two frames. If the last frames of its input are kept, it sees chunk by
//! chunk what it would have seen in the whole video; zeros replace them at the start.

use candle_core::Tensor;

use crate::{
    checkpoint::{CheckpointError, Weights},
    nn::{Conv3d, Conv3dConfig},
};

/// Frames that a kernel of three frames looks back.
const LOOK_BACK: usize = 2;

/// The place of one layer in a [`FeatureCache`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot(usize);

/// Hands out slots while a network is loaded.
#[derive(Debug, Default)]
pub(super) struct Slots(usize);

impl Slots {
    pub(super) fn next(&mut self) -> Slot {
        self.0 += 1;
        Slot(self.0 - 1)
    }
}

/// The last input frames of every causal layer during one stream.
#[derive(Clone, Debug)]
pub(super) struct FeatureCache {
    frames: Vec<Option<Tensor>>,
    chunk: usize,
}

impl FeatureCache {
    pub(super) fn new(slots: &Slots) -> Self {
        Self { frames: vec![None; slots.0], chunk: 0 }
    }

    /// Whether the first chunk is being processed, a single frame that resampling in time leaves unchanged.
    pub(super) fn first_chunk(&self) -> bool {
        self.chunk == 0
    }

    /// Number of the chunk being processed.
    pub(super) fn chunk(&self) -> usize {
        self.chunk
    }

    /// Must be called after each chunk.
    pub(super) fn end_chunk(&mut self) {
        self.chunk += 1;
    }

    fn before(&self, slot: Slot) -> Option<&Tensor> {
        self.frames.get(slot.0).and_then(Option::as_ref)
    }

    /// Keeps the last `count` frames that the layer has seen, the latest of which are in `x`
    /// `[batch, frames, height, width, channels]`.
    pub(super) fn remember(&mut self, slot: Slot, x: &Tensor, count: usize) -> candle_core::Result<()> {
        let new = x.dim(1)?;
        let kept = match self.before(slot) {
            Some(before) if new < count => {
                let old = before.dim(1)?.min(count - new);
                Tensor::cat(&[&before.narrow(1, before.dim(1)? - old, old)?, x], 1)?
            }
            // A copy, because a view would keep the whole chunk in memory.
            _ => x.narrow(1, new.saturating_sub(count), new.min(count))?.force_contiguous()?,
        };
        match self.frames.get_mut(slot.0) {
            Some(frames) => *frames = Some(kept),
            None => candle_core::bail!("feature cache: slot {} of {}", slot.0, self.frames.len()),
        }
        Ok(())
    }
}

/// A convolution that only looks back in time.
#[derive(Clone, Debug)]
pub(super) struct CausalConv {
    conv: Conv3d,
    slot: Slot,
    look_back: usize,
}

impl CausalConv {
    /// Kernel 3 in every direction; keeps the size of the input.
    pub(super) fn load(
        weights: &Weights,
        inputs: usize,
        outputs: usize,
        slots: &mut Slots,
    ) -> Result<Self, CheckpointError> {
        let config =
            Conv3dConfig { kernel: [3; 3], stride: [1; 3], padding: [(LOOK_BACK, 0), (1, 1), (1, 1)] };
        Self::new(weights, inputs, outputs, config, slots)
    }

    /// Kernel 3 over frames only, with every `stride`th frame as output. It looks back as far as the stride
    /// leaves room.
    pub(super) fn load_over_frames(
        weights: &Weights,
        inputs: usize,
        outputs: usize,
        stride: usize,
        slots: &mut Slots,
    ) -> Result<Self, CheckpointError> {
        let padding = [(LOOK_BACK + 1 - stride, 0), (0, 0), (0, 0)];
        let config = Conv3dConfig { kernel: [3, 1, 1], stride: [stride, 1, 1], padding };
        Self::new(weights, inputs, outputs, config, slots)
    }

    fn new(
        weights: &Weights,
        inputs: usize,
        outputs: usize,
        config: Conv3dConfig,
        slots: &mut Slots,
    ) -> Result<Self, CheckpointError> {
        let conv = Conv3d::load(weights, inputs, outputs, config)?;
        Ok(Self { conv, slot: slots.next(), look_back: config.padding[0].0 })
    }

    /// The next chunk of a stream.
    pub(super) fn forward(&self, x: &Tensor, cache: &mut FeatureCache) -> candle_core::Result<Tensor> {
        let y = match cache.before(self.slot) {
            None => self.conv.forward(x)?,
            Some(before) => self.conv.forward_after(before, x)?,
        };
        self.skip(x, cache)?;
        Ok(y)
    }

    /// Remembers a chunk without convolving it.
    pub(super) fn skip(&self, x: &Tensor, cache: &mut FeatureCache) -> candle_core::Result<()> {
        cache.remember(self.slot, x, self.look_back)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn keeps_the_last_frames_across_chunks() -> candle_core::Result<()> {
        let mut slots = Slots::default();
        let slot = slots.next();
        let mut cache = FeatureCache::new(&slots);
        let frames = |values: &[f32]| Tensor::new(values, &Device::Cpu)?.reshape((1, values.len(), 1, 1, 1));
        let kept =
            |cache: &FeatureCache| cache.before(slot).map(|x| x.flatten_all()?.to_vec1::<f32>()).transpose();
        for (chunk, expected) in [
            (vec![0.0], vec![0.0]),
            (vec![1.0], vec![0.0, 1.0]),
            (vec![2.0], vec![1.0, 2.0]),
            (vec![3.0, 4.0, 5.0], vec![4.0, 5.0]),
        ] {
            cache.remember(slot, &frames(&chunk)?, 2)?;
            assert_eq!(kept(&cache)?, Some(expected));
        }
        Ok(())
    }
}

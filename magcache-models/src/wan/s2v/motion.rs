//! The past of the video as tokens: recent latents finely, older ones coarsely.

use candle_core::{Result, Tensor};

use super::positions::{BUCKETS, PACKED};
use crate::{
    checkpoint::Weights,
    wan::{LoadResult, patch::PatchEmbedding},
};

/// Names of the embeddings, in the order of [`BUCKETS`].
const NAMES: [&str; 3] = ["proj", "proj_2x", "proj_4x"];

/// `frame_packer`: the last 19 latents before a clip as few tokens (`FramePackMotioner` of the official
/// code).
#[derive(Debug)]
pub struct FramePacker([PatchEmbedding; 3]);

impl FramePacker {
    /// Reads `proj`, `proj_2x` and `proj_4x` for latents of `channels` channels and tokens of `inner`.
    ///
    /// # Errors
    /// A missing tensor or a wrong shape.
    pub fn load(weights: &Weights, channels: usize, inner: usize) -> LoadResult<Self> {
        let load = |i: usize| PatchEmbedding::load(&weights.pp(NAMES[i]), channels, BUCKETS[i].1, inner);
        Ok(Self([load(0)?, load(1)?, load(2)?]))
    }

    /// Latents `[1, channels, latents, height, width]`, the newest last, to `[1, tokens, inner]`, the newest
    /// first. Where there are fewer than 19, the older ones are zero; of more, the last count.
    ///
    /// # Errors
    /// A height or width that is no multiple of 8.
    pub fn forward(&self, motion: &Tensor) -> Result<Tensor> {
        let (batch, channels, latents, height, width) = motion.dims5()?;
        let missing = PACKED.saturating_sub(latents);
        let zeros =
            Tensor::zeros((batch, channels, missing, height, width), motion.dtype(), motion.device())?;
        let kept = latents.min(PACKED);
        let packed = match (missing, kept) {
            (0, _) => motion.narrow(2, latents - kept, kept)?,
            (_, 0) => zeros,
            _ => Tensor::cat(&[&zeros, motion], 2)?,
        };
        let mut end = PACKED;
        let mut tokens = Vec::with_capacity(BUCKETS.len());
        for ((latents, _), embedding) in BUCKETS.iter().zip(&self.0) {
            end -= latents;
            tokens.push(embedding.forward(&packed.narrow(2, end, *latents)?.contiguous()?)?);
        }
        Tensor::cat(&tokens, 1)
    }
}

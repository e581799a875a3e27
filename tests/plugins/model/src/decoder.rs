//! The decoder: each token is a square of pixels.

use candle_core::{Result, Tensor};
use magcache_models::{checkpoint::Weights, pipeline};

use crate::HIDDEN;

/// One linear layer.
#[derive(Debug)]
pub(crate) struct Decoder(Tensor);

impl Decoder {
    /// Pixels of a token's side.
    pub(crate) const SIDE: usize = 8;

    pub(crate) fn load(weights: &Weights) -> pipeline::Result<Self> {
        Ok(Self(weights.get("weight", &[HIDDEN, 3 * Self::SIDE * Self::SIDE])?))
    }

    /// Tokens `[1, rows * columns, 16]` to one frame `[3, 1, height, width]` in −1..=1.
    pub(crate) fn decode(&self, latents: &Tensor, [rows, columns]: [usize; 2]) -> Result<Tensor> {
        let side = Self::SIDE;
        let pixels = latents.broadcast_matmul(&self.0)?.tanh()?;
        let pixels = pixels.reshape(&[rows, columns, 3, side, side][..])?.permute([2, 0, 3, 1, 4])?;
        pixels.reshape((3, 1, rows * side, columns * side))
    }
}

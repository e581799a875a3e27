//! Rotary position embeddings on the two halves of a head.
//!
//! Channels `i` and `i + head_dim / 2` are one complex number, rotated by the angle of the token's position:
//! the pairing of `LLaMA` (`rotate_half` in transformers), not the neighbours of [`crate::nn::RotaryTable`].

use candle_core::{Device, Result, Tensor};
use candle_nn::rotary_emb::rope_thd;

/// Cosines and sines of the angles of tokens, each f32 `[tokens, head_dim / 2]`.
#[derive(Clone, Debug)]
pub(in crate::text) struct HalfRotary {
    cos: Tensor,
    sin: Tensor,
}

impl HalfRotary {
    /// Tokens at the positions 0, 1, ...
    pub(in crate::text) fn new(head_dim: usize, theta: f64, tokens: usize, device: &Device) -> Result<Self> {
        let positions: Vec<[usize; 1]> = (0..tokens).map(|token| [token]).collect();
        let pairs: Vec<_> = frequencies(head_dim, theta).map(|frequency| (0, frequency)).collect();
        Self::at(&positions, &pairs, device)
    }

    /// Tokens at positions of `N` axes; a pair of channels turns by its axis and frequency.
    ///
    /// Frequencies and angles are rounded to f32, as in transformers: the difference shows after some hundred
    /// tokens.
    pub(in crate::text) fn at<const N: usize>(
        positions: &[[usize; N]],
        pairs: &[(usize, f32)],
        device: &Device,
    ) -> Result<Self> {
        let turn = |at: &[usize; N], axis: usize| at.get(axis).copied().unwrap_or_default() as f32;
        let angles = positions.iter().flat_map(|at| pairs.iter().map(move |(axis, by)| turn(at, *axis) * by));
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.map(|angle| (angle.cos(), angle.sin())).unzip();
        let shape = (positions.len(), pairs.len());
        Ok(Self { cos: Tensor::from_vec(cos, shape, device)?, sin: Tensor::from_vec(sin, shape, device)? })
    }

    /// `[batch, tokens, heads, head_dim]` to the same shape.
    pub(in crate::text) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        rope_thd(&x.contiguous()?, &self.cos, &self.sin)
    }
}

/// The frequencies of a head's pairs of channels: a geometric progression from 1.
pub(in crate::text) fn frequencies(head_dim: usize, theta: f64) -> impl Iterator<Item = f32> {
    (0..head_dim / 2).map(move |i| 1.0 / (theta as f32).powf((2 * i) as f32 / head_dim as f32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_turn_by_the_position() -> Result<()> {
        let (theta, tokens) = (100f64, 3usize);
        let rotary = HalfRotary::new(4, theta, tokens, &Device::Cpu)?;
        let x = Tensor::new(&[[[[1f32, 2.0, 3.0, 4.0]; 2]; 3]], &Device::Cpu)?;
        let turned = rotary.apply(&x)?.flatten_to(1)?.to_vec3::<f32>()?;
        for (token, heads) in turned.iter().enumerate() {
            for head in heads {
                // Frequencies 1 and 100^(-1/2).
                for (i, frequency) in [1f64, 0.1].into_iter().enumerate() {
                    let (sin, cos) = (token as f64 * frequency).sin_cos();
                    let (a, b) = ((i + 1) as f64, (i + 3) as f64);
                    let expected = [a * cos - b * sin, b * cos + a * sin];
                    let error = (f64::from(head[i]) - expected[0]).abs()
                        + (f64::from(head[i + 2]) - expected[1]).abs();
                    assert!(error < 1e-6, "{token} {i}: {head:?} {expected:?}");
                }
            }
        }
        Ok(())
    }
}

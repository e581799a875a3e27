//! Rotary position embeddings on the two halves of a head.
//!
//! Channels `i` and `i + head_dim / 2` are one complex number, rotated by the angle of the token's position:
//! the pairing of `LLaMA` (`rotate_half` in transformers), not the neighbours of [`crate::nn::RotaryTable`].

use candle_core::{Device, Result, Tensor};
use candle_nn::rotary_emb::rope_thd;

/// Cosines and sines of the angles of positions 0, 1, ..., each f32 `[tokens, head_dim / 2]`.
#[derive(Clone, Debug)]
pub(super) struct HalfRotary {
    cos: Tensor,
    sin: Tensor,
}

impl HalfRotary {
    /// Frequencies and angles are rounded to f32, as in transformers: the difference shows after some hundred
    /// tokens.
    pub(super) fn new(head_dim: usize, theta: f64, tokens: usize, device: &Device) -> Result<Self> {
        let half = head_dim / 2;
        let frequency = |i: usize| 1.0 / (theta as f32).powf((2 * i) as f32 / head_dim as f32);
        let angles = (0..tokens).flat_map(|token| (0..half).map(move |i| token as f32 * frequency(i)));
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.map(|angle| (angle.cos(), angle.sin())).unzip();
        Ok(Self {
            cos: Tensor::from_vec(cos, (tokens, half), device)?,
            sin: Tensor::from_vec(sin, (tokens, half), device)?,
        })
    }

    /// `[batch, tokens, heads, head_dim]` to the same shape.
    pub(super) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        rope_thd(&x.contiguous()?, &self.cos, &self.sin)
    }
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

//! Sinusoidal embedding of timesteps.

use candle_core::{Device, Result, Tensor};

/// Longest period, in timesteps.
const MAX_PERIOD: f64 = 10_000.0;

/// Timesteps to `[cos(t f), sin(t f)]` for frequencies `f` that fall geometrically from 1 to `1 / 10000`.
#[derive(Clone, Debug)]
pub struct Sinusoids {
    /// `[1, channels / 2]`.
    frequencies: Tensor,
}

impl Sinusoids {
    /// For embeddings of `channels` channels, an even number.
    ///
    /// A frequency is rounded to f32 where diffusers rounds it: angles reach 1000 radians, where its last bit is visible
    /// in the result.
    pub fn new(channels: usize, device: &Device) -> Result<Self> {
        let half = channels / 2;
        let values = (0..half).map(|k| {
            let exponent = (-MAX_PERIOD.ln()) as f32 * k as f32 / half as f32;
            f64::from(exponent).exp() as f32
        });
        Ok(Self { frequencies: Tensor::from_vec(values.collect::<Vec<f32>>(), (1, half), device)? })
    }

    /// `[..]` in f32 to `[.., channels]`: cosines, then sines.
    pub fn forward(&self, timestep: &Tensor) -> Result<Tensor> {
        let angles = timestep.flatten_all()?.unsqueeze(1)?.broadcast_mul(&self.frequencies)?;
        let mut shape = timestep.dims().to_vec();
        shape.push(2 * self.frequencies.dim(1)?);
        Tensor::cat(&[angles.cos()?, angles.sin()?], 1)?.reshape(shape)
    }
}

//! Sinusoidal embedding of timesteps.

use candle_core::{Device, Result, Tensor};

/// Longest period, in timesteps.
const MAX_PERIOD: f64 = 10_000.0;

/// Exponents whose power is rounded up, though the exact value is nearer to the f32 below by a few hundredths of a last bit.
///
/// torch's `exp` is not rounded to nearest everywhere, and where it is not depends on the CPU. Of the 128 frequencies of Flux
/// it misses two on each kind that we have seen; these are the two of the machine that the reference data was recorded on.
/// Angles of 3500 radians (1000 times the guidance scale) make 2e-4 of that bit, ten times more than everything else in
/// which this crate differs from diffusers.
const ROUNDED_UP: [f32; 2] = [-0.935_425_2, -3.166_054_5];

/// Timesteps to `[cos(t f), sin(t f)]` for frequencies `f` that fall geometrically from 1 to `1 / 10000`.
#[derive(Clone, Debug)]
pub struct Sinusoids {
    /// `[1, channels / 2]`.
    frequencies: Tensor,
}

impl Sinusoids {
    /// For embeddings of `channels` channels, an even number.
    ///
    /// A frequency is rounded to f32 where and how diffusers 0.42.1 rounds it: angles reach thousands of
    /// radians, where its last bit is visible in the result.
    pub fn new(channels: usize, device: &Device) -> Result<Self> {
        let half = channels / 2;
        let values = (0..half).map(|k| {
            let exponent = (-MAX_PERIOD.ln()) as f32 * k as f32 / half as f32;
            let nearest = f64::from(exponent).exp() as f32;
            if ROUNDED_UP.contains(&exponent) { nearest.next_up() } else { nearest }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_are_the_nearest_but_for_two() -> Result<()> {
        let frequencies = Sinusoids::new(256, &Device::Cpu)?.frequencies.flatten_all()?.to_vec1::<f32>()?;
        let mut up = Vec::new();
        for (k, f) in frequencies.into_iter().enumerate() {
            let exact = f64::from((-MAX_PERIOD.ln()) as f32 * k as f32 / 128.0).exp();
            if exact as f32 != f {
                assert_eq!((exact as f32).next_up(), f);
                up.push(k);
            }
        }
        assert_eq!(up, [13, 44]);
        Ok(())
    }
}

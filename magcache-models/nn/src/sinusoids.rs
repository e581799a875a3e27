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
    /// Where they are computed.
    pub fn device(&self) -> &Device {
        self.frequencies.device()
    }

    /// For embeddings of `channels` channels, an even number.
    ///
    /// The exponent is rounded to f32 where diffusers rounds it, and its power to the nearest f32.
    pub fn new(channels: usize, device: &Device) -> Result<Self> {
        Self::rounded_up(channels, &[], device)
    }

    /// The same, with the frequencies `which`, counted from 0, one f32 above the nearest.
    ///
    /// torch's `exp` does so for two of the 128 frequencies of Flux, and which two depends on the CPU. Angles
    /// of 3500 radians (1000 times the guidance scale) make that bit visible: it moves the outputs of a small
    /// FLUX.1 by up to 1e-4, ten times as much as all other differences from diffusers. For comparisons with
    /// recorded runs.
    pub fn rounded_up(channels: usize, which: &[usize], device: &Device) -> Result<Self> {
        let half = channels / 2;
        let values = (0..half).map(|k| {
            let exponent = (-MAX_PERIOD.ln()) as f32 * k as f32 / half as f32;
            let nearest = f64::from(exponent).exp() as f32;
            if which.contains(&k) { nearest.next_up() } else { nearest }
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

    /// `torch.exp(-math.log(10000) * torch.arange(0, 128, dtype=torch.float32) / 128)` of torch 2.11 on an
    /// AMD EPYC: some elements' bits, and the sum of all.
    #[test]
    fn frequencies_are_those_of_torch_where_two_are_rounded_up() -> Result<()> {
        let frequencies = Sinusoids::rounded_up(256, &[12, 106], &Device::Cpu)?.frequencies;
        let bits: Vec<u32> =
            frequencies.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect();
        let some = [0, 1, 12, 64, 106, 127].map(|k| bits[k]);
        let torch = [0x3f80_0000, 0x3f6e_39f8, 0x3ed7_e89b, 0x3c23_d70a, 0x39ff_4fad, 0x38e1_5c8e];
        assert_eq!(some, torch);
        assert_eq!(bits.into_iter().map(u64::from).sum::<u64>(), 129_226_262_049);
        Ok(())
    }
}

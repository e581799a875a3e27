//! The initial noise of a run.

use candle_core::{Device, Result, Shape, Tensor};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use rand_distr::{Distribution, StandardNormal};

/// Numbers from the standard normal distribution, f32: the same seed gives the same bytes on every machine.
pub fn noise(seed: u64, shape: impl Into<Shape>, device: &Device) -> super::Result<Tensor> {
    Ok(noise_of_stream(seed, 0, shape, device)?)
}

/// The same from another stream of the seed's generator, for random numbers other than the noise.
pub fn noise_of_stream(seed: u64, stream: u64, shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
    let shape = shape.into();
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    let values: Vec<f32> = StandardNormal.sample_iter(&mut rng).take(shape.elem_count()).collect();
    Tensor::from_vec(values, shape, device)
}

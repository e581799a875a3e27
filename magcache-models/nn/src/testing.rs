//! Random tensors and distances, for the unit tests of the kernels.

use candle_core::{Device, Result, Tensor};

/// Values from the standard normal distribution, in f32.
pub(crate) fn random(shape: &[usize]) -> Result<Tensor> {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu)
}

/// The largest magnitude.
pub(crate) fn largest(x: &Tensor) -> Result<f32> {
    x.abs()?.flatten_all()?.max(0)?.to_scalar()
}

/// The largest distance between two values.
pub(crate) fn worst(a: &Tensor, b: &Tensor) -> Result<f32> {
    largest(&(a - b)?)
}

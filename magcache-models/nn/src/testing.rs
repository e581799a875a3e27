//! Random tensors and distances, for the unit tests of the kernels.

use std::{cell::Cell, f64::consts::TAU};

use candle_core::{Device, Result, Tensor};

thread_local! {
    /// Each test has a thread of its own.
    static STATE: Cell<u64> = const { Cell::new(1) };
}

/// Values from the standard normal distribution, in f32, the same in every run.
pub(crate) fn random(shape: &[usize]) -> Result<Tensor> {
    // The finaliser of splitmix64.
    let uniform = || {
        let state = STATE.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        STATE.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((mixed ^ (mixed >> 31)) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
    let normal = |_| ((-2.0 * uniform().ln()).sqrt() * (TAU * uniform()).cos()) as f32;
    let values: Vec<f32> = (0..shape.iter().product()).map(normal).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// The largest magnitude.
pub(crate) fn largest(x: &Tensor) -> Result<f32> {
    x.abs()?.flatten_all()?.max(0)?.to_scalar()
}

/// The largest distance between two values.
pub(crate) fn worst(a: &Tensor, b: &Tensor) -> Result<f32> {
    largest(&(a - b)?)
}

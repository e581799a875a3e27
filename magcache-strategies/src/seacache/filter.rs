//! The filter of `SeaCache`: what of a signal at a noise level is signal and not noise.
//!
//! Along a grid axis of length `n` with frequencies `f`, and with `a = 1 − σ`, `b = σ`:
//! `S = 1 / (|f|^p + ε)`, `g = a·S / (a²·S + b² + ε)`. The gain of the grid is the product of those of its
//! axes, divided by its mean. A product over axes is filtered axis by axis, and the mean of the product is
//! that of the means, so the whole filter is one circulant matrix for each axis; no Fourier transform is
//! needed.

use std::f64::consts::TAU;

use candle_core::{DType, Device, Result, Tensor};

const EPSILON: f32 = 1e-16;

/// The gains of an axis of length `n` divided by their mean, from frequency 0 on, in the order of a discrete
/// Fourier transform; in f32, as published.
pub fn gains(n: usize, sigma: f64, power: f64) -> Vec<f32> {
    let sigma = sigma.clamp(1e-6, 1.0 - 1e-6);
    let (a, b) = (1.0 - sigma, sigma);
    let at = |i: usize| {
        let frequency = i.min(n - i) as f64 / n as f64;
        let signal = 1.0 / ((frequency as f32).powf(power as f32) + EPSILON);
        a as f32 * signal / ((a * a) as f32 * signal + (b * b) as f32 + EPSILON)
    };
    let gains: Vec<f32> = (0..n).map(at).collect();
    let mean = (gains.iter().map(|gain| f64::from(*gain)).sum::<f64>() / n as f64) as f32;
    gains.into_iter().map(|gain| gain / mean).collect()
}

/// The matrix `[n, n]` of an axis: symmetric, and each row is the one above it moved by one place.
fn matrix(n: usize, sigma: f64, power: f64, device: &Device) -> Result<Tensor> {
    let gains = gains(n, sigma, power);
    let row = |k: usize| {
        let term =
            |(j, gain): (usize, &f32)| f64::from(*gain) * (TAU * ((j * k) % n) as f64 / n as f64).cos();
        gains.iter().enumerate().map(term).sum::<f64>() / n as f64
    };
    let row: Vec<f64> = (0..n).map(row).collect();
    let at = |i: usize| row[(i / n + n - i % n) % n] as f32;
    Tensor::from_vec((0..n * n).map(at).collect::<Vec<_>>(), (n, n), device)
}

/// Filters `x` along `axes` of its dimensions, in f32, at noise level `sigma` (0 to 1).
pub fn filtered(x: &Tensor, axes: std::ops::Range<usize>, sigma: f64, power: f64) -> Result<Tensor> {
    let dims = x.dims().to_vec();
    let mut x = x.to_dtype(DType::F32)?;
    for axis in axes {
        let n = dims[axis];
        // The gain of a single place is divided by itself.
        if n == 1 {
            continue;
        }
        let matrix = matrix(n, sigma, power, x.device())?;
        let (outer, inner) =
            (dims[..axis].iter().product::<usize>(), dims[axis + 1..].iter().product::<usize>());
        x = if inner == 1 {
            x.reshape((outer, n))?.matmul(&matrix)?
        } else {
            let matrix = matrix.broadcast_as((outer, n, n))?.contiguous()?;
            matrix.matmul(&x.reshape((outer, n, inner))?)?
        };
    }
    x.reshape(dims)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of the definition, computed in numpy.
    #[test]
    fn gains_are_those_of_the_definition() {
        let close = |got: &[f32], want: &[f32]| {
            assert_eq!(got.len(), want.len());
            got.iter().zip(want).for_each(|(got, want)| assert!((got - want).abs() < 1e-6, "{got} {want}"));
        };
        close(&gains(4, 0.5, 2.0), &[1.086_262, 1.022_364, 0.869_010, 1.022_364]);
        close(&gains(5, 0.97, 3.0), &[4.022_379, 0.429_578, 0.059_232, 0.059_232, 0.429_578]);
        assert!(gains(7, 0.0, 3.0).iter().all(|gain| (gain - 1.0).abs() < 1e-5), "nothing is noise");
    }

    #[test]
    fn without_noise_everything_passes_and_with_nothing_else_the_mean() {
        let x = Tensor::arange(0f32, 24.0, &Device::Cpu).unwrap().reshape((1, 2, 3, 4)).unwrap();
        let off =
            |y: &Tensor| (y - &x).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(off(&filtered(&x, 1..4, 0.0, 3.0).unwrap()) < 1e-4);
        // At full noise the gain at frequency 0 is as many times the mean gain as there are frequencies.
        let flat = filtered(&x, 1..4, 1.0, 3.0).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(flat.iter().all(|value| (value / flat[0] - 1.0).abs() < 1e-3), "{flat:?}");
    }
}

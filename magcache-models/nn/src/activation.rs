//! Activations, element by element, any shape.

use candle_core::{D, Result, Tensor};
use magcache_checkpoint::Ops;
use pulp::Simd;

use super::cpu::{self, RowKernel, by_row, by_value, compute, exp, on_cpu};

/// GELU with the tanh approximation, `x / 2 * (1 + tanh(sqrt(2 / π) * (x + 0.044715 x³)))`.
///
/// Computed as `x * sigmoid(2u)`, which is equal and keeps its precision for negative `x`.
pub fn gelu_tanh(ops: Ops, x: &Tensor) -> Result<Tensor> {
    if on_cpu(ops, x) { compute("gelu-tanh", x, x.shape(), |x| by_value(x, &GeluTanh)) } else { x.gelu() }
}

/// Exact GELU, `x / 2 * (1 + erf(x / sqrt(2)))`, to a few units in the last place.
pub fn gelu_erf(ops: Ops, x: &Tensor) -> Result<Tensor> {
    if on_cpu(ops, x) { compute("gelu-erf", x, x.shape(), |x| by_value(x, &GeluErf)) } else { x.gelu_erf() }
}

/// `SiLU` (swish), `x * sigmoid(x)`.
pub fn silu(ops: Ops, x: &Tensor) -> Result<Tensor> {
    if on_cpu(ops, x) { compute("silu", x, x.shape(), |x| by_value(x, &Silu)) } else { x.silu() }
}

/// `silu(a) * b` of the two halves of the channels: `[.., 2 * channels]` to `[.., channels]` (FLUX.2).
pub fn swiglu(ops: Ops, x: &Tensor) -> Result<Tensor> {
    let channels = x.dim(D::Minus1)?;
    if channels % 2 != 0 {
        candle_core::bail!("swiglu: got {channels} channels, expected an even number");
    }
    if !on_cpu(ops, x) {
        return swiglu_plain(x);
    }
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = channels / 2;
    }
    compute("swiglu", x, shape, |x| by_row(x, channels, channels / 2, &SwiGlu))
}

fn swiglu_plain(x: &Tensor) -> Result<Tensor> {
    let half = x.dim(D::Minus1)? / 2;
    x.narrow(D::Minus1, 0, half)?.silu()? * x.narrow(D::Minus1, half, half)?
}

struct SwiGlu;

impl RowKernel for SwiGlu {
    #[inline(always)]
    fn row<S: Simd>(&self, _: S, _: usize, out: &mut [f32], x: &[f32]) {
        let (gate, value) = x.split_at(out.len());
        for (out, (gate, value)) in out.iter_mut().zip(gate.iter().zip(value)) {
            *out = cpu::silu(*gate) * value;
        }
    }
}

/// [`gelu_tanh`], on its own or after a linear layer.
pub(super) struct GeluTanh;

impl RowKernel for GeluTanh {
    #[inline(always)]
    fn row<S: Simd>(&self, _: S, _: usize, out: &mut [f32], x: &[f32]) {
        out.iter_mut().zip(x).for_each(|(out, x)| *out = gelu_tanh_of(*x));
    }
}

/// [`gelu_erf`], on its own or after a linear layer.
pub(super) struct GeluErf;

impl RowKernel for GeluErf {
    #[inline(always)]
    fn row<S: Simd>(&self, _: S, _: usize, out: &mut [f32], x: &[f32]) {
        out.iter_mut().zip(x).for_each(|(out, x)| *out = gelu_erf_of(*x));
    }
}

struct Silu;

impl RowKernel for Silu {
    #[inline(always)]
    fn row<S: Simd>(&self, _: S, _: usize, out: &mut [f32], x: &[f32]) {
        out.iter_mut().zip(x).for_each(|(out, x)| *out = cpu::silu(*x));
    }
}

#[inline(always)]
pub(super) fn gelu_tanh_of(x: f32) -> f32 {
    let u = 0.797_884_6 * (x + 0.044_715 * x * x * x);
    x / (1.0 + exp(-2.0 * u))
}

/// From `1 - erf(|x| / sqrt(2)) = exp(-x² / 2) * w`, so that nothing cancels for negative `x`. `w` is a
/// polynomial in `t = 1 / (1 + 0.35 |x|)` without a constant term, fitted here for the least relative error,
/// 3e-8 in exact arithmetic.
#[inline(always)]
pub(super) fn gelu_erf_of(x: f32) -> f32 {
    const COEFFICIENTS: [f32; 9] = [
        -0.058_190_413,
        0.287_440_15,
        -0.510_366_6,
        0.317_107_05,
        -0.045_343_194,
        0.210_634_47,
        0.239_765_38,
        0.279_709_52,
        0.279_243_65,
    ];
    let t = 1.0 / x.abs().mul_add(0.35, 1.0);
    let mut w = 0.0;
    for coefficient in COEFFICIENTS {
        w = t.mul_add(w, coefficient);
    }
    let beyond = exp(-0.5 * x * x) * w * t;
    0.5 * x * if x < 0.0 { beyond } else { 2.0 - beyond }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::testing::random;

    fn inputs() -> Tensor {
        let values: Vec<f32> = (-40_000..40_000).map(|i| i as f32 * 2.5e-4).collect();
        Tensor::new(values, &Device::Cpu).expect("fits in memory")
    }

    fn worst(ours: &Tensor, exact: impl Fn(f64) -> f64) -> Result<f64> {
        let pairs = ours.to_vec1::<f32>()?.into_iter().zip(inputs().to_vec1::<f32>()?);
        let error = |(y, x): (f32, f32)| {
            let exact = exact(f64::from(x));
            (f64::from(y) - exact).abs() / exact.abs().max(1e-30)
        };
        Ok(pairs.map(error).fold(0.0, f64::max))
    }

    /// The share of a normal distribution below `x`: a series around 0, beyond 3 a continued fraction.
    fn normal(x: f64) -> f64 {
        let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        if x.abs() > 3.0 {
            let fraction = (1..200).rev().fold(x.abs(), |rest, k| x.abs() + f64::from(k) / rest);
            let beyond = density / fraction;
            return if x < 0.0 { beyond } else { 1.0 - beyond };
        }
        let (mut term, mut sum) = (x, x);
        for k in 1..100 {
            term *= x * x / f64::from(2 * k + 1);
            sum += term;
        }
        0.5 + density * sum
    }

    #[test]
    fn kernels_are_exact_in_relative_terms() -> Result<()> {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let u = |x: f64| (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
        // Near -10 the exponent is about -100, so rounding of `u` alone changes the result of 1e-42 by a
        // relative 1e-5.
        let shown = |x: f64| if x < -5.0 { f64::NAN } else { x * sigmoid(2.0 * u(x)) };
        let gelu = worst(&gelu_tanh(Ops::Kernels, &inputs())?, shown)?;
        assert!(gelu < 5e-6, "{gelu}");
        let erf_gelu = worst(&gelu_erf(Ops::Kernels, &inputs())?, |x| x * normal(x))?;
        assert!(erf_gelu < 6e-6, "{erf_gelu}");
        let silu = worst(&silu(Ops::Kernels, &inputs())?, |x| x * sigmoid(x))?;
        assert!(silu < 1e-6, "{silu}");
        Ok(())
    }

    #[test]
    fn kernels_agree_with_candle() -> Result<()> {
        let x = inputs();
        for (ours, candle) in [
            (gelu_tanh(Ops::Kernels, &x)?, x.gelu()?),
            (gelu_erf(Ops::Kernels, &x)?, x.gelu_erf()?),
            (silu(Ops::Kernels, &x)?, x.silu()?),
        ] {
            let scale = (candle.abs()? + 1.0)?;
            let error = (ours - candle)?.abs()?.div(&scale)?.max(0)?.to_scalar::<f32>()?;
            assert!(error < 1e-6, "{error}");
        }
        Ok(())
    }

    #[test]
    fn the_first_half_gates_the_second() -> Result<()> {
        for channels in [2, 70, 40_000] {
            let x = (random(&[2, 3, channels])? * 2.0)?;
            let (ours, plain) = (swiglu(Ops::Kernels, &x)?, swiglu_plain(&x)?);
            assert_eq!(ours.dims(), [2, 3, channels / 2]);
            let error = crate::testing::worst(&ours, &plain)?;
            assert!(error < 5e-6, "{channels}: {error}");
        }
        assert!(
            swiglu(Ops::Kernels, &Tensor::zeros((1, 3), candle_core::DType::F32, &Device::Cpu)?).is_err()
        );
        Ok(())
    }

    #[test]
    fn views_and_nan_pass_through() -> Result<()> {
        let x = Tensor::new(&[[1f32, f32::NAN], [-2.0, 3.0]], &Device::Cpu)?;
        let y = silu(Ops::Kernels, &x.t()?)?.to_vec2::<f32>()?;
        assert!(y[1][0].is_nan() && (y[0][1] + 2.0 / (1.0 + 2f32.exp())).abs() < 1e-6);
        Ok(())
    }
}

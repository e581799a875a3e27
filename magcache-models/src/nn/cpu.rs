//! What the CPU kernels share: slices of tensors, dispatch on the vector width, a vectorisable exponential.

use candle_core::{CpuStorage, DType, Layout, Result, Tensor};
use rayon::prelude::*;

/// Values that one task of an element-wise kernel handles at least: below this, splitting costs more than it gains.
pub(crate) const TASK: usize = 16 * 1024;

/// Independent partial results of a reduction; wide enough for every vector register.
const LANES: usize = 16;

/// Whether the kernels of this crate apply.
pub(crate) fn on_cpu(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// Rows of `channels` values that one task takes.
pub(crate) fn rows_per_task(channels: usize) -> usize {
    (TASK / channels.max(1)).max(1)
}

/// The values of a contiguous f32 tensor.
pub(crate) fn contiguous<'a>(op: &str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!(
            "{op}: expected a contiguous tensor, got shape {:?} by {:?}",
            layout.dims(),
            layout.stride()
        )
    };
    match storage.as_slice::<f32>()?.get(start..end) {
        Some(values) => Ok(values),
        None => candle_core::bail!("{op}: the layout of shape {:?} exceeds its storage", layout.dims()),
    }
}

/// Calls `kernel(out, x)` for every row, on all cores.
pub(crate) fn for_each_row(
    x: &[f32],
    channels: usize,
    kernel: impl Fn(&mut [f32], &[f32]) + Sync,
) -> Vec<f32> {
    let channels = channels.max(1);
    let mut out = vec![0f32; x.len()];
    let task = rows_per_task(channels) * channels;
    out.par_chunks_mut(task).zip(x.par_chunks(task)).for_each(|(out, x)| {
        vectorized(|| {
            for (out, x) in out.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
                kernel(out, x);
            }
        });
    });
    out
}

/// Checks the length of a vector that is applied to the channels.
pub(crate) fn per_channel<'a>(
    op: &str,
    storage: &'a CpuStorage,
    layout: &Layout,
    channels: usize,
) -> Result<&'a [f32]> {
    let values = contiguous(op, storage, layout)?;
    if values.len() != channels {
        candle_core::bail!("{op}: {} weights for {channels} channels", values.len());
    }
    Ok(values)
}

/// Runs a kernel compiled for the widest vector instructions of this CPU.
///
/// The kernel and what it calls must be inlined for that: small closures are, functions need `#[inline(always)]`.
#[inline]
pub(crate) fn vectorized<R>(kernel: impl FnOnce() -> R) -> R {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    {
        use pulp::{
            Simd,
            x86::{V3, V4},
        };
        if V4::try_new().is_none()
            && let Some(simd) = V3::try_new()
        {
            return Simd::vectorize(simd, kernel);
        }
    }
    pulp::Arch::new().dispatch(kernel)
}

/// `e^x` to 2e-7 relative for `x` in -87..=88, the ends outside of it, NaN for NaN.
///
/// Cody-Waite reduction to `2^n e^r` with `|r| <= ln 2 / 2` and the polynomial of the Cephes library. `n` comes out of
/// the low bits of a float near `1.5 * 2^23`, because a conversion to integers would not vectorise as well.
#[inline(always)]
#[allow(
    clippy::inline_always,
    reason = "the loops around it must vectorise for the caller's instruction set"
)]
pub(crate) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_6e-1;
    let p = p * r + 0.5;
    let y = p * (r * r) + r + 1.0;
    f32::from_bits(y.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// `x * sigmoid(x)`.
#[inline(always)]
#[allow(clippy::inline_always, reason = "see `exp`")]
pub(crate) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// Σ f(x) over a row.
#[inline(always)]
#[allow(clippy::inline_always, reason = "see `exp`")]
pub(crate) fn sum_of(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += f(*x);
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|x| f(*x)).sum::<f32>()
}

/// Largest value of a row, minus infinity for an empty one; NaN is passed over.
#[inline(always)]
#[allow(clippy::inline_always, reason = "see `exp`")]
pub(crate) fn max_of(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = if *x > *lane { *x } else { *lane };
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_the_last_digits() {
        let worst = (-87_000..=88_000)
            .map(|i| i as f32 / 1000.0)
            .map(|x| (f64::from(exp(x)) / f64::from(x).exp() - 1.0).abs())
            .fold(0.0, f64::max);
        assert!(worst < 2e-7, "{worst}");
        assert!((exp(f32::NEG_INFINITY), exp(f32::INFINITY)) == (exp(-87.0), exp(88.0)));
        assert!(exp(f32::NAN).is_nan() && exp(-f32::NAN).is_nan());
    }

    #[test]
    fn reductions_look_at_every_value() {
        let row: Vec<f32> = (0..37).map(|i| if i == 36 { 50.0 } else { i as f32 }).collect();
        assert!((sum_of(&row, |x| 2.0 * x) - 2.0 * (35.0 * 18.0 + 50.0)).abs() < 1e-3);
        assert!((max_of(&row) - 50.0).abs() < 1e-6);
        assert!((max_of(&row[..17]) - 16.0).abs() < 1e-6);
    }
}

//! Resampling of curves to a different number of steps.

/// The index into a curve of `len` values that corresponds to value `i` of `n`:
/// `round_ties_even(i · (len−1)/(n−1))`, in `f64`; for `n` = 1 the last value.
///
/// Ties go to even as in the published code: rounding half away from zero picks another index for about half
/// of all `n`.
pub fn index(len: usize, n: usize, i: usize) -> usize {
    pick(len, n, i, |scale| (i as f64 * scale).round_ties_even())
}

/// [`index`] with the factor and the product rounded to `f32` first, as in diffusers; the result differs for
/// 12 pairs of lengths.
pub fn index_f32(len: usize, n: usize, i: usize) -> usize {
    pick(len, n, i, |scale| f64::from((i as f32 * scale as f32).round_ties_even()))
}

fn pick(len: usize, n: usize, i: usize, round: impl Fn(f64) -> f64) -> usize {
    let last = len.saturating_sub(1);
    match n {
        _ if n == len => i.min(last),
        0 | 1 => last,
        _ => (round(last as f64 / (n - 1) as f64) as usize).min(last),
    }
}

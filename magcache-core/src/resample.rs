//! Curves for another number of steps than they were measured at.

/// Nearest-index resampling: value `i` is `src[round_ties_even(i · (len−1)/(n−1))]`, in `f64`; one value takes the
/// last. Ties go to even as in the published code: half away from zero picks another index for about half of
/// all `n`.
pub fn nearest(src: &[f64], n: usize) -> Vec<f64> {
    pick(src, n, |i, scale| (i * scale).round_ties_even())
}

/// The same with the product rounded to `f32` first, as diffusers computes it: 12 pairs of lengths differ.
pub fn nearest_f32(src: &[f64], n: usize) -> Vec<f64> {
    pick(src, n, |i, scale| f64::from((i as f32 * scale as f32).round_ties_even()))
}

fn pick(src: &[f64], n: usize, index: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    let Some(last) = src.last() else { return Vec::new() };
    match n {
        0 => Vec::new(),
        _ if n == src.len() => src.to_vec(),
        1 => vec![*last],
        _ => {
            let scale = (src.len() - 1) as f64 / (n - 1) as f64;
            (0..n).map(|i| *src.get(index(i as f64, scale) as usize).unwrap_or(last)).collect()
        }
    }
}

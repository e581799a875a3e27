//! Structural similarity: Wang et al., *Image Quality Assessment: From Error Visibility to Structural
//! Similarity* (2004).
//!
//! The window is a box of 7 x 7, so its sums are sums of 7 row sums. Only windows entirely inside the frame
//! count.

use std::array::from_fn;

use super::WINDOW;

/// Sums over a window of `a`, `b`, `a * a`, `b * b` and `a * b`.
type Moments = [f64; 5];

/// Mean SSIM of one frame `[height, width, channels]`: over its windows, then over its channels.
pub(super) fn ssim(a: &[f64], b: &[f64], [height, width, channels]: [usize; 3], data_range: f64) -> f64 {
    let channel = |c: usize| {
        let row = |y: usize| {
            let pixels = (y * width..(y + 1) * width).map(|i| i * channels + c);
            windows(pixels.map(|i| [a[i], b[i], a[i] * a[i], b[i] * b[i], a[i] * b[i]]))
        };
        let columns = width + 1 - WINDOW;
        let rows: Vec<Vec<Moments>> = (0..height).map(row).collect();
        let similarity = |x: usize| -> f64 {
            let column = windows(rows.iter().map(|row| row[x]));
            column.into_iter().map(|moments| index(moments, data_range)).sum()
        };
        (0..columns).map(similarity).sum::<f64>() / (columns * (height + 1 - WINDOW)) as f64
    };
    (0..channels).map(channel).sum::<f64>() / channels as f64
}

/// The sums over every run of [`WINDOW`] neighbours. Each sum is computed afresh: a sliding sum would carry
/// rounding errors of a bright region into a flat one next to it.
fn windows(values: impl Iterator<Item = Moments>) -> Vec<Moments> {
    let values: Vec<Moments> = values.collect();
    let sum = |run: &[Moments]| from_fn(|k| run.iter().map(|moments| moments[k]).sum());
    values.windows(WINDOW).map(sum).collect()
}

/// SSIM of one window, with the unbiased covariance.
fn index(moments: Moments, data_range: f64) -> f64 {
    let n = (WINDOW * WINDOW) as f64;
    let [ux, uy, uxx, uyy, uxy] = moments.map(|sum| sum / n);
    let unbiased = n / (n - 1.0);
    let (vx, vy, vxy) = (unbiased * (uxx - ux * ux), unbiased * (uyy - uy * uy), unbiased * (uxy - ux * uy));
    let (c1, c2) = ((0.01 * data_range).powi(2), (0.03 * data_range).powi(2));
    ((2.0 * ux * uy + c1) * (2.0 * vxy + c2)) / ((ux * ux + uy * uy + c1) * (vx + vy + c2))
}

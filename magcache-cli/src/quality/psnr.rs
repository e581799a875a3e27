//! Peak signal-to-noise ratio.

/// `10 * log10(data_range^2 / mse)` in dB over every sample of a frame; infinite for equal frames.
pub(super) fn psnr(a: &[f64], b: &[f64], data_range: f64) -> f64 {
    let squares: f64 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
    if squares == 0.0 {
        return f64::INFINITY;
    }
    10.0 * (data_range.powi(2) / (squares / a.len() as f64)).log10()
}

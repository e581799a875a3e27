//! How the residual of a step compares with that of the previous step.

use candle_core::{DType, Result, Tensor, bail};

use super::{Pooled, reads, with_host};

/// How a residual compares with the previous one, over tokens (rows of the last dimension).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MagnitudeRatio {
    /// Mean of `|now| / |before|`, norms over the last dimension.
    pub ratio: f64,
    /// Sample standard deviation of the same.
    pub std: f64,
    /// Mean of `1 − cos(now, before)`.
    pub cosine_distance: f64,
}

/// The statistics that MagCache's calibration uses (`norm_ratio`, `norm_std`, `cos_dis` of the published
/// code), on a host copy of the tensors.
pub fn magnitude_ratio(now: &Tensor, before: &Tensor) -> Result<MagnitudeRatio> {
    let (ratio, cosine_distance) = magnitudes(now, before)?;
    Ok(MagnitudeRatio { ratio: ratio.mean, std: ratio.std(), cosine_distance: cosine_distance.mean })
}

/// `|now| / |before|` and `1 − cos(now, before)` per token, norms over the last dimension, on a host copy of
/// the tensors.
pub fn magnitudes(now: &Tensor, before: &Tensor) -> Result<(Pooled, Pooled)> {
    Ok(pooled(token_magnitudes(now, before)?))
}

/// Of tokens in their order, what [`token_magnitudes`] found.
pub(crate) fn pooled(tokens: impl IntoIterator<Item = [f64; 2]>) -> (Pooled, Pooled) {
    let none = (Pooled::default(), Pooled::default());
    tokens
        .into_iter()
        .fold(none, |(ratios, cosines), [ratio, cosine]| (ratios.and(ratio), cosines.and(cosine)))
}

/// The same numbers of every token, row by row.
pub(crate) fn token_magnitudes(now: &Tensor, before: &Tensor) -> Result<Vec<[f64; 2]>> {
    if now.shape() != before.shape() {
        bail!("a magnitude ratio of shapes {:?} and {:?}", now.shape(), before.shape());
    }
    // Both tensors, whole.
    reads::count();
    reads::count();
    let channels = now.dims().last().copied().unwrap_or(1).max(1);
    let host = |t: &Tensor| t.to_device(&candle_core::Device::Cpu)?.to_dtype(DType::F32)?.contiguous();
    let (now, before) = (host(now)?, host(before)?);
    with_host(&now, |now| {
        with_host(&before, |before| {
            let dot = |x: &[f32], y: &[f32]| -> f64 {
                x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
            };
            let of_token = |(a, b): (&[f32], &[f32])| {
                let (norm_a, norm_b) = (dot(a, a).sqrt(), dot(b, b).sqrt());
                [norm_a / norm_b, 1.0 - dot(a, b) / (norm_a * norm_b)]
            };
            now.chunks(channels).zip(before.chunks(channels)).map(of_token).collect()
        })
    })?
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn t(values: &[f32], rows: usize) -> Tensor {
        Tensor::from_slice(values, (rows, values.len() / rows), &Device::Cpu).unwrap()
    }

    #[test]
    fn magnitude_ratio_of_a_scaled_residual() {
        let before = t(&[3.0, 4.0, 1.0, 0.0], 2);
        let r = magnitude_ratio(&t(&[6.0, 8.0, 2.0, 0.0], 2), &before).unwrap();
        assert!((r.ratio - 2.0).abs() < 1e-12 && r.std < 1e-6 && r.cosine_distance.abs() < 1e-12);
        let r = magnitude_ratio(&t(&[3.0, 4.0, 0.0, 3.0], 2), &before).unwrap();
        assert!((r.ratio - 2.0).abs() < 1e-12 && (r.std - 2f64.sqrt()).abs() < 1e-12);
        assert!((r.cosine_distance - 0.5).abs() < 1e-12);
    }
}

//! SSIMULACRA2, a metric made to follow what people see.

use candle_core::{DType, Tensor};
use rayon::prelude::*;
use ssimulacra2::{ColorPrimaries, Rgb, TransferCharacteristic, compute_frame_ssimulacra2};

use super::{QualityError, Scores};

/// Smallest side of a frame that the metric is defined for, in pixels.
const SIDE: usize = 8;

/// SSIMULACRA2 of two videos `[frames, height, width, 3]` of sRGB in 0..=1, f32: 100 if they are equal, above
/// 90 if no difference is seen, below 50 if the difference disturbs; it can be negative. `None` if a side is
/// below 8 pixels or there are no three channels, for which the metric is not defined.
///
/// # Errors
/// Shapes that differ, or tensors of another rank.
#[expect(clippy::disallowed_methods, reason = "pictures are compared on the host")]
pub fn perceptual(a: &Tensor, b: &Tensor) -> Result<Option<Scores>, QualityError> {
    let shape = |tensor: &Tensor| tensor.dims4().map(|(t, h, w, c)| [t, h, w, c]);
    let [of_a, of_b] = [shape(a)?, shape(b)?];
    if of_a != of_b {
        return Err(QualityError::Shape { a: of_a, b: of_b });
    }
    let [frames, height, width, channels] = of_a;
    if frames == 0 || channels != 3 || height.min(width) < SIDE {
        return Ok(None);
    }
    let pixels = |tensor: &Tensor| -> Result<Vec<[f32; 3]>, QualityError> {
        let samples = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        Ok(samples.as_chunks().0.to_vec())
    };
    let (a, b) = (pixels(a)?, pixels(b)?);
    let size = height * width;
    let score = |(a, b): (&[[f32; 3]], &[[f32; 3]])| {
        let frame = |pixels: &[[f32; 3]]| {
            Rgb::new(pixels.to_vec(), width, height, TransferCharacteristic::SRGB, ColorPrimaries::BT709).ok()
        };
        compute_frame_ssimulacra2(frame(a)?, frame(b)?).ok()
    };
    let scores: Option<Vec<f64>> = a.par_chunks(size).zip(b.par_chunks(size)).map(score).collect();
    Ok(scores.map(Scores::of_likeness))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// Frames of 32 x 24 with a pattern, the later ones with ever more noise on it.
    fn video(noise: f32) -> Tensor {
        let at = |i: usize| {
            let (frame, place) = (i / (24 * 32 * 3), i % (24 * 32 * 3));
            let pattern = 0.5 + 0.4 * (place as f32 * 0.013).sin();
            pattern + noise * frame as f32 * ((i * 7919 % 97) as f32 / 97.0 - 0.5)
        };
        let values: Vec<f32> = (0..5 * 24 * 32 * 3).map(at).collect();
        Tensor::from_vec(values, (5, 24, 32, 3), &Device::Cpu).unwrap().clamp(0f32, 1f32).unwrap()
    }

    #[test]
    fn equal_frames_have_100_and_more_noise_has_less() {
        let clean = video(0.0);
        let same = perceptual(&clean, &clean).unwrap().unwrap();
        assert_eq!((same.mean, same.worst), (100.0, 100.0));
        let [little, much] = [0.02, 0.1].map(|noise| perceptual(&clean, &video(noise)).unwrap().unwrap());
        assert!(100.0 > little.mean && little.mean > much.mean, "{little:?} {much:?}");
        assert!(little.worst < little.mean && much.worst < much.mean, "{little:?} {much:?}");
    }

    /// Scores of the authors' program (C++) for grey frames of 64 x 64, and for a gradient against grey, as
    /// the tests of fast-ssim2 0.9.1 record them. Ports differ by some tenths: their blurs round otherwise.
    #[test]
    fn scores_are_those_of_the_authors() {
        let grey = |level: u8| Tensor::full(f32::from(level) / 255.0, (1, 64, 64, 3), &Device::Cpu).unwrap();
        let gradient = |i: usize| (i / 3 % 64 * 255 / 63) as f32 / 255.0;
        let gradient = (0..64 * 64 * 3).map(gradient).collect::<Vec<f32>>();
        let gradient = Tensor::from_vec(gradient, (1, 64, 64, 3), &Device::Cpu).unwrap();
        let mut pairs: Vec<(Tensor, Tensor, f64)> =
            [(1, 97.986_721), (5, 91.523_577), (10, 80.242_894), (20, 56.058_556), (50, -8.759_423)]
                .map(|(shift, score)| (grey(128), grey(128 + shift), score))
                .into();
        pairs.push((gradient, grey(128), -64.568_721));
        for (a, b, score) in pairs {
            let found = perceptual(&a, &b).unwrap().unwrap();
            assert!((found.mean - score).abs() < 0.5, "{} instead of {score}", found.mean);
        }
    }

    #[test]
    fn what_the_metric_is_not_defined_for_has_no_score() {
        let clean = video(0.0);
        let narrow = clean.narrow(2, 0, 7).unwrap();
        assert_eq!(perceptual(&narrow, &narrow).unwrap(), None);
        let two = clean.narrow(3, 0, 2).unwrap();
        assert_eq!(perceptual(&two, &two).unwrap(), None);
        assert!(matches!(perceptual(&clean, &narrow), Err(QualityError::Shape { .. })));
    }
}

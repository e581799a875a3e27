//! Shared by the tests of the writers: test frames, and a measure of the decoded result.

use std::path::PathBuf;

use image::{Rgb, RgbImage};

use super::{Destination, VideoShape};

/// A bright disc with a hard edge crossing a colour gradient: smooth areas, edges, saturated colours and
/// motion.
pub(super) fn test_frames(shape: &VideoShape) -> Vec<RgbImage> {
    let (w, h) = (shape.width as f32, shape.height as f32);
    (0..shape.frames)
        .map(|t| {
            let centre = (w * (0.2 + 0.6 * t as f32 / shape.frames as f32), h * 0.5);
            RgbImage::from_fn(shape.width, shape.height, |x, y| {
                let (x, y) = (x as f32, y as f32);
                if (x - centre.0).hypot(y - centre.1) < h * 0.25 {
                    return Rgb([240, 60, 30]);
                }
                Rgb([(200.0 * x / w) as u8, (200.0 * y / h) as u8, (120.0 + 3.0 * t as f32 % 100.0) as u8])
            })
        })
        .collect()
}

/// The same picture in 64 colours at most.
pub(super) fn few_colours(frame: &RgbImage) -> RgbImage {
    let mut frame = frame.clone();
    frame.iter_mut().for_each(|level| *level &= 0xc0);
    frame
}

/// Peak signal-to-noise ratio over all channels, in dB; infinite if equal.
pub(super) fn psnr(a: &RgbImage, b: &RgbImage) -> f64 {
    assert_eq!(a.dimensions(), b.dimensions());
    let square = |(a, b): (&u8, &u8)| f64::from(a.abs_diff(*b)).powi(2);
    let mean = a.iter().zip(b.iter()).map(square).sum::<f64>() / a.len() as f64;
    10.0 * (255.0 * 255.0 / mean).log10()
}

/// Writes `frames` and returns the path of the result.
pub(super) fn write(output: &Destination, frames: &[RgbImage]) -> PathBuf {
    let mut writer = output.writer().unwrap();
    frames.iter().for_each(|frame| writer.push(frame).unwrap());
    writer.finish().unwrap();
    output.path().to_owned()
}

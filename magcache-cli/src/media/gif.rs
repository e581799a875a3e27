//! Animated GIF.

use std::path::{Path, PathBuf};

use gif::{Encoder, Frame, Repeat};
use image::RgbImage;

use super::destination::FrameSink;
use super::staging::StagedFile;
use super::{MediaError, VideoShape};

/// Sampling interval, in pixels, of the palette search for a frame of this size. Small frames have none to
/// spare: on a colour gradient of 64x64, 1 gives 35 dB and 5 gives 32 dB. On one of 832x480, 5 is four times
/// faster and no worse. Up to 256 colours are kept exactly either way.
fn sampling(width: u32, height: u32) -> i32 {
    if width * height <= 320 * 320 { 1 } else { 5 }
}

/// One `.gif` file that loops forever.
pub(super) struct GifSink {
    encoder: Encoder<StagedFile>,
    path: PathBuf,
    shape: VideoShape,
    next: usize,
}

impl GifSink {
    pub(super) fn create(path: &Path, shape: VideoShape) -> Result<Self, MediaError> {
        let refused = |reason| MediaError::encode(path, 0, reason);
        let side = |pixels: u32| u16::try_from(pixels).map_err(|e| MediaError::encode(path, 0, e));
        let (width, height) = (side(shape.width)?, side(shape.height)?);
        let mut encoder = Encoder::new(StagedFile::create(path)?, width, height, &[]).map_err(refused)?;
        encoder.set_repeat(Repeat::Infinite).map_err(refused)?;
        Ok(Self { encoder, path: path.to_owned(), shape, next: 0 })
    }
}

/// Duration of frame `index` in hundredths of a second: from its rounded start to the next one's, so that
/// rounding errors do not accumulate. 16 frames at 16 per second take one second, as 6, 7, 6, 6, ...
/// hundredths.
fn delay(shape: &VideoShape, index: usize) -> u16 {
    let start = |i| (shape.time_of(i) * 100.0).round();
    (start(index + 1) - start(index)) as u16
}

impl FrameSink for GifSink {
    fn push(&mut self, frame: &RgbImage) -> Result<(), MediaError> {
        let (width, height) = frame.dimensions();
        let mut indexed =
            Frame::from_rgb_speed(width as u16, height as u16, frame.as_raw(), sampling(width, height));
        indexed.delay = delay(&self.shape, self.next);
        self.encoder.write_frame(&indexed).map_err(|e| MediaError::encode(&self.path, self.next, e))?;
        self.next += 1;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), MediaError> {
        let Self { encoder, path, next, .. } = *self;
        encoder.into_inner().map_err(|e| MediaError::encode(&path, next, e))?.commit()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use gif::{ColorOutput, DecodeOptions};

    use super::super::Destination;
    use super::super::testing::{few_colours, psnr, test_frames, write};
    use super::*;

    fn decode(path: &Path) -> (Vec<RgbImage>, Vec<u16>) {
        let mut options = DecodeOptions::new();
        options.set_color_output(ColorOutput::RGBA);
        let mut decoder = options.read_info(File::open(path).unwrap()).unwrap();
        let (width, height) = (u32::from(decoder.width()), u32::from(decoder.height()));
        let (mut frames, mut delays) = (Vec::new(), Vec::new());
        while let Some(frame) = decoder.read_next_frame().unwrap() {
            let rgb = frame.buffer.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect();
            frames.push(RgbImage::from_raw(width, height, rgb).unwrap());
            delays.push(frame.delay);
        }
        assert_eq!(decoder.repeat(), Repeat::Infinite);
        (frames, delays)
    }

    #[test]
    fn frames_keep_their_colours_and_their_time() {
        let root = tempfile::tempdir().unwrap();
        let shape = VideoShape { width: 48, height: 31, frames: 17, fps: 16.0 };
        let frames = test_frames(&shape);
        let path = write(&Destination::prepare(root.path().join("a.gif"), shape).unwrap(), &frames);
        let (decoded, delays) = decode(&path);
        assert_eq!(decoded.len(), 17);
        for (a, b) in frames.iter().zip(&decoded) {
            let psnr = psnr(a, b);
            assert!(psnr > 30.0, "{psnr} dB");
        }
        assert_eq!(delays[..5], [6, 7, 6, 6, 6]);
        assert_eq!(delays[..16].iter().sum::<u16>(), 100);
    }

    #[test]
    fn up_to_256_colours_are_exact() {
        let root = tempfile::tempdir().unwrap();
        let shape = VideoShape { width: 64, height: 64, frames: 2, fps: 10.0 };
        let frames: Vec<_> = test_frames(&shape).iter().map(few_colours).collect();
        let path = write(&Destination::prepare(root.path().join("a.gif"), shape).unwrap(), &frames);
        assert_eq!(decode(&path), (frames, vec![10, 10]));
    }

    #[test]
    fn delays_of_any_rate_add_up() {
        for fps in [1.0, 7.0, 8.0, 12.0, 15.0, 16.0, 23.976, 24.0, 25.0, 30.0, 50.0] {
            let shape = VideoShape { width: 1, height: 1, frames: 300, fps };
            let total: u32 = (0..300).map(|i| u32::from(delay(&shape, i))).sum();
            assert!((f64::from(total) - 30000.0 / fps).abs() <= 0.5, "{fps}: {total}");
            assert!((0..300).all(|i| delay(&shape, i) >= 2));
        }
    }
}

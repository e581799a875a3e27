//! WebP: one lossless image, smaller than a PNG and supported by every browser.

use std::path::Path;

use image::RgbImage;
use image::codecs::webp::WebPEncoder;

use super::MediaError;
use super::sink::FrameSink;
use super::staging::StagedFile;

/// One `.webp` file.
pub(super) struct WebPSink {
    file: StagedFile,
}

impl WebPSink {
    pub(super) fn create(path: &Path) -> Result<Self, MediaError> {
        Ok(Self { file: StagedFile::create(path)? })
    }
}

impl FrameSink for WebPSink {
    fn push(&mut self, frame: &RgbImage) -> Result<(), MediaError> {
        let path = self.file.target().to_owned();
        let encoder = WebPEncoder::new_lossless(&mut self.file);
        frame.write_with_encoder(encoder).map_err(|e| MediaError::encode(&path, 0, e))
    }

    fn finish(self: Box<Self>) -> Result<(), MediaError> {
        self.file.commit()
    }
}

#[cfg(test)]
mod tests {
    use image::ImageFormat;

    use super::super::testing::{test_frames, write};
    use super::super::{Clip, Destination};

    /// Sides that are not multiples of the encoder's blocks, a single pixel, and the longest side.
    #[test]
    fn an_image_comes_back_bit_for_bit_and_as_its_png_does() {
        let root = tempfile::tempdir().unwrap();
        for (width, height) in [(64, 48), (33, 17), (1, 1), (16383, 1)] {
            let clip = Clip { width, height, frames: 1, fps: 16.0 };
            let frames = test_frames(&clip);
            let file = |name| write(&Destination::prepare(root.path().join(name), clip).unwrap(), &frames);
            let (webp, png) = (file("a.webp"), file("a.png"));
            assert_eq!(image::guess_format(&std::fs::read(&webp).unwrap()).unwrap(), ImageFormat::WebP);
            let decoded = image::open(webp).unwrap().into_rgb8();
            assert_eq!(decoded, frames[0]);
            assert_eq!(decoded, image::open(png).unwrap().into_rgb8());
        }
    }
}

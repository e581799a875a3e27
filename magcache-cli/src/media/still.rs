//! PNG and WebP: one lossless image, or a PNG for each frame.

use std::io::Write;
use std::path::Path;

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::codecs::webp::WebPEncoder;
use image::{ExtendedColorType, ImageEncoder, RgbImage};
use magcache_models::image::Picture;

use super::destination::FrameSink;
use super::staging::{StagedFile, StagedFolder};
use super::{Format, MediaError};

fn png(writer: impl Write) -> impl ImageEncoder {
    PngEncoder::new_with_quality(writer, CompressionType::Default, FilterType::Adaptive)
}

/// Writes the pixels of a picture losslessly; the file appears when it is complete.
pub(crate) fn write_picture(target: &Path, picture: &Picture) -> Result<(), MediaError> {
    let (width, height) = (picture.width() as u32, picture.height() as u32);
    let mut file = StagedFile::create(target)?;
    png(&mut file)
        .write_image(picture.rgb8(), width, height, ExtendedColorType::Rgb8)
        .map_err(|e| MediaError::encode(target, 0, e))?;
    file.commit()
}

/// One `.webp` file, which is smaller and supported by every browser, or else one `.png` file.
pub(super) struct StillSink {
    pub(super) file: StagedFile,
    pub(super) format: Format,
}

impl FrameSink for StillSink {
    fn push(&mut self, frame: &RgbImage) -> Result<(), MediaError> {
        let path = self.file.target().to_owned();
        let encoded = match self.format {
            Format::WebP => frame.write_with_encoder(WebPEncoder::new_lossless(&mut self.file)),
            _ => frame.write_with_encoder(png(&mut self.file)),
        };
        encoded.map_err(|e| MediaError::encode(&path, 0, e))
    }

    fn finish(self: Box<Self>) -> Result<(), MediaError> {
        self.file.commit()
    }
}

/// A folder of frames from `00000.png`: the names sort in order, and `ffmpeg -i %05d.png` reads them.
pub(super) struct FolderSink {
    folder: StagedFolder,
    next: usize,
}

/// The name of a frame in a folder, counted from 0.
pub(super) fn frame_name(frame: usize) -> String {
    format!("{frame:05}.png")
}

impl FolderSink {
    pub(super) fn create(path: &Path) -> Result<Self, MediaError> {
        Ok(Self { folder: StagedFolder::create(path)?, next: 0 })
    }
}

impl FrameSink for FolderSink {
    fn push(&mut self, frame: &RgbImage) -> Result<(), MediaError> {
        let mut file = self.folder.file(&frame_name(self.next))?;
        let target = self.folder.target();
        frame.write_with_encoder(png(&mut file)).map_err(|e| MediaError::encode(target, self.next, e))?;
        file.flush().map_err(MediaError::io(target, "write to"))?;
        self.next += 1;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), MediaError> {
        self.folder.commit()
    }
}

#[cfg(test)]
mod tests {
    use image::ImageFormat;

    use super::super::testing::{test_frames, write};
    use super::super::{Destination, VideoShape};

    #[test]
    fn frames_of_a_folder_come_back_bit_for_bit() {
        let root = tempfile::tempdir().unwrap();
        let shape = VideoShape { width: 33, height: 17, frames: 12, fps: 16.0 };
        let frames = test_frames(&shape);
        let folder = write(&Destination::prepare(root.path().join("frames"), shape).unwrap(), &frames);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 12);
        for (i, frame) in frames.iter().enumerate() {
            assert_eq!(&image::open(folder.join(format!("{i:05}.png"))).unwrap().into_rgb8(), frame);
        }
    }

    /// Sides that are not multiples of the encoder's blocks, a single pixel, and the longest side.
    #[test]
    fn an_image_comes_back_bit_for_bit() {
        let root = tempfile::tempdir().unwrap();
        for (width, height) in [(64, 48), (33, 17), (1, 1), (16383, 1)] {
            let shape = VideoShape { width, height, frames: 1, fps: 16.0 };
            let frames = test_frames(&shape);
            for (name, format) in [("a.webp", ImageFormat::WebP), ("a.png", ImageFormat::Png)] {
                let file = write(&Destination::prepare(root.path().join(name), shape).unwrap(), &frames);
                assert_eq!(image::guess_format(&std::fs::read(&file).unwrap()).unwrap(), format);
                assert_eq!(image::open(file).unwrap().into_rgb8(), frames[0]);
            }
        }
    }
}

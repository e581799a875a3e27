//! PNG: one image, or one per frame.

use std::io::Write;
use std::path::Path;

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder, RgbImage};
use magcache_models::image::Picture;

use super::MediaError;
use super::sink::FrameSink;
use super::staging::{StagedFile, StagedFolder};

fn encode(frame: &RgbImage, writer: impl Write, path: &Path, index: usize) -> Result<(), MediaError> {
    let encoder = PngEncoder::new_with_quality(writer, CompressionType::Default, FilterType::Adaptive);
    frame.write_with_encoder(encoder).map_err(|e| MediaError::encode(path, index, e))
}

/// Writes the pixels of a picture losslessly; the file appears when it is complete.
pub(crate) fn write_picture(target: &Path, picture: &Picture) -> Result<(), MediaError> {
    let (width, height) = (picture.width() as u32, picture.height() as u32);
    let mut file = StagedFile::create(target)?;
    PngEncoder::new_with_quality(&mut file, CompressionType::Default, FilterType::Adaptive)
        .write_image(picture.rgb8(), width, height, ExtendedColorType::Rgb8)
        .map_err(|e| MediaError::encode(target, 0, e))?;
    file.commit()
}

/// One `.png` file.
pub(super) struct PngSink {
    file: StagedFile,
}

impl PngSink {
    pub(super) fn create(path: &Path) -> Result<Self, MediaError> {
        Ok(Self { file: StagedFile::create(path)? })
    }
}

impl FrameSink for PngSink {
    fn push(&mut self, frame: &RgbImage) -> Result<(), MediaError> {
        let path = self.file.target().to_owned();
        encode(frame, &mut self.file, &path, 0)
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
        encode(frame, &mut file, self.folder.target(), self.next)?;
        file.flush().map_err(MediaError::io(self.folder.target(), "write to"))?;
        self.next += 1;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), MediaError> {
        self.folder.commit()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{test_frames, write};
    use super::super::{Clip, Destination};

    #[test]
    fn images_come_back_bit_for_bit() {
        let root = tempfile::tempdir().unwrap();
        let clip = Clip { width: 33, height: 17, frames: 12, fps: 16.0 };
        let frames = test_frames(&clip);

        let folder = write(&Destination::prepare(root.path().join("frames"), clip).unwrap(), &frames);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 12);
        for (i, frame) in frames.iter().enumerate() {
            assert_eq!(&image::open(folder.join(format!("{i:05}.png"))).unwrap().into_rgb8(), frame);
        }

        let single = Destination::prepare(root.path().join("a.png"), Clip { frames: 1, ..clip }).unwrap();
        let file = write(&single, &frames[3..4]);
        assert_eq!(image::open(file).unwrap().into_rgb8(), frames[3]);
    }
}

//! From frames to a finished file.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use image::RgbImage;
use magcache_core::error::count;

use super::gif::GifSink;
use super::mp4::Mp4Sink;
use super::sound::Sound;
use super::staging::{self, StagedFile};
use super::still::{FolderSink, StillSink, frame_name};
use super::{Format, Frames, MediaError};

/// Size, length and speed of a video. An image is a video of one frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VideoShape {
    /// Pixels per row.
    pub width: u32,
    /// Rows per frame.
    pub height: u32,
    /// Number of frames; all of them are written.
    pub frames: usize,
    /// Frames per second; MP4 is exact to a thousandth, GIF to a hundredth of a second over the whole video.
    pub fps: f64,
}

impl VideoShape {
    /// The time at which frame `index` is shown, in seconds.
    pub fn time_of(&self, index: usize) -> f64 {
        index as f64 / self.fps
    }

    /// How long the video is, in seconds.
    pub fn seconds(&self) -> f64 {
        self.time_of(self.frames)
    }
}

/// Writes frames in one format. If dropped without `finish`, it removes what it wrote.
pub(super) trait FrameSink {
    /// Adds the next frame, which has the size of the video.
    fn push(&mut self, frame: &RgbImage) -> Result<(), MediaError>;
    /// Completes the output and renames it to its final name.
    fn finish(self: Box<Self>) -> Result<(), MediaError>;
}

/// A path to write to, checked before the run.
#[derive(Clone, Debug)]
pub struct Destination {
    path: PathBuf,
    format: Format,
    shape: VideoShape,
    sound: Option<Sound>,
}

impl Destination {
    /// Checks that a video of `shape` can be written to `path`: the format is known and can hold it, the
    /// folder exists or can be created, and it is writable. Leaves no trace. An existing file is replaced at
    /// the end of the run; a folder that is not empty is refused.
    pub fn prepare(path: impl AsRef<Path>, shape: VideoShape) -> Result<Self, MediaError> {
        let typed = path.as_ref();
        let format = Format::of(typed)?;
        format.check(typed, &shape)?;
        // Without a trailing slash, so that a name can be put next to it.
        let path: PathBuf = typed.components().collect();
        if format == Format::Folder {
            if path.is_file() {
                return Err(MediaError::WrongKind { path, is: "file", needed: "folder" });
            }
            if path.is_dir() {
                let mut entries = fs::read_dir(&path).map_err(MediaError::io(&path, "read the folder"))?;
                if entries.next().is_some() {
                    return Err(MediaError::NotEmpty { path });
                }
            }
        }
        staging::probe(&path)?;
        Ok(Self { path, format, shape, sound: None })
    }

    /// Like [`Destination::prepare`], for a resumed run. If `maybe` is set, the result may already exist:
    /// returns true for a folder that holds exactly the frames of the video. Such a folder is complete,
    /// because it appeared as a whole.
    pub(crate) fn prepare_again(
        path: &Path,
        shape: VideoShape,
        maybe: bool,
    ) -> Result<(Self, bool), MediaError> {
        let format = Format::of(path)?;
        let frames = || (0..shape.frames).all(|i| path.join(frame_name(i)).is_file());
        let count = || fs::read_dir(path).map_or(0, Iterator::count);
        if maybe && format == Format::Folder && count() == shape.frames && frames() {
            return Ok((Self { path: path.components().collect(), format, shape, sound: None }, true));
        }
        Ok((Self::prepare(path, shape)?, false))
    }

    /// Adds a recording from `start` seconds on, cut to the shorter of both: a track of an MP4
    /// ([`SoundTrack`]), a WAV file beside any other output ([`sound_beside`]), which is replaced like the
    /// output itself.
    ///
    /// Errors: those of [`AudioError`](magcache_audio::AudioError), among them a recording that ends before
    /// `start`.
    ///
    /// [`SoundTrack`]: magcache_audio::SoundTrack
    /// [`sound_beside`]: super::sound_beside
    pub fn with_sound(mut self, recording: &Path, start: f64) -> Result<Self, MediaError> {
        self.sound = Some(Sound::cut((&self.path, self.format), recording, (start, self.shape.seconds()))?);
        Ok(self)
    }

    /// The file beside the result that holds its sound, if there is one.
    pub fn sound_path(&self) -> Option<&Path> {
        self.sound.as_ref().and_then(Sound::path)
    }

    /// The path of the result.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The format of the result.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Starts writing frame by frame.
    pub fn writer(&self) -> Result<VideoWriter, MediaError> {
        let sink: Box<dyn FrameSink> = match self.format {
            Format::Mp4 => {
                let track = self.sound.as_ref().and_then(Sound::track).cloned();
                Box::new(Mp4Sink::create(&self.path, self.shape, track)?)
            }
            Format::Gif => Box::new(GifSink::create(&self.path, self.shape)?),
            Format::Png | Format::WebP => {
                Box::new(StillSink { file: StagedFile::create(&self.path)?, format: self.format })
            }
            Format::Folder => Box::new(FolderSink::create(&self.path)?),
        };
        let sound = self.sound.as_ref().map(Sound::staged).transpose()?.flatten();
        Ok(VideoWriter { output: self.clone(), sound, sink, pushed: 0 })
    }

    /// Writes all `frames`, holding one at a time in memory.
    pub fn write(&self, frames: &Frames) -> Result<(), MediaError> {
        let mut writer = self.writer()?;
        for frame in frames.iter() {
            writer.push(&frame?)?;
        }
        writer.finish()
    }
}

/// Writes a video frame by frame; memory does not grow with the length, except by a few bytes per frame. If
/// dropped before [`VideoWriter::finish`], it removes what it wrote.
pub struct VideoWriter {
    output: Destination,
    /// The file beside the output. Dropped first: the sink removes the folders that it made, if they are
    /// empty.
    sound: Option<StagedFile>,
    sink: Box<dyn FrameSink>,
    pushed: usize,
}

impl VideoWriter {
    /// Adds the next frame, which must have the size that the output was prepared for.
    pub fn push(&mut self, frame: &RgbImage) -> Result<(), MediaError> {
        let VideoShape { width, height, frames, .. } = self.output.shape;
        if frame.dimensions() != (width, height) {
            let (w, h) = frame.dimensions();
            return Err(self.mismatch(format!("frames of {width}x{height}"), format!("one of {w}x{h}")));
        }
        if self.pushed == frames {
            return Err(self.mismatch(count(frames, "frame"), "one more".into()));
        }
        self.sink.push(frame)?;
        self.pushed += 1;
        Ok(())
    }

    /// Completes the output; only then does it appear under its name.
    pub fn finish(self) -> Result<(), MediaError> {
        let frames = self.output.shape.frames;
        if self.pushed != frames {
            return Err(self.mismatch(count(frames, "frame"), self.pushed.to_string()));
        }
        // First, because what has the name of the output is taken to be complete.
        self.sound.map_or(Ok(()), StagedFile::commit)?;
        self.sink.finish()
    }

    fn mismatch(&self, expected: String, got: String) -> MediaError {
        MediaError::Mismatch { path: self.output.path.clone(), expected, got }
    }
}

impl fmt::Debug for VideoWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VideoWriter")
            .field("output", &self.output)
            .field("pushed", &self.pushed)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::test_frames;
    use super::*;

    const SHAPE: VideoShape = VideoShape { width: 32, height: 16, frames: 3, fps: 16.0 };

    #[test]
    fn every_format_keeps_to_its_shape_and_leaves_nothing_when_it_fails() {
        let videos = ["a.mp4", "a.gif", "a", "new/folder/a.mp4", "new/a.gif", "new/a"].map(|name| (name, 3));
        let images = ["a.png", "a.webp", "new/a.png", "new/a.webp"].map(|name| (name, 1));
        for (name, count) in videos.into_iter().chain(images) {
            let root = tempfile::tempdir().unwrap();
            let empty = || fs::read_dir(root.path()).unwrap().next().is_none();
            let shape = VideoShape { frames: count, ..SHAPE };
            let output = Destination::prepare(root.path().join(name), shape).unwrap();
            assert!(empty(), "{name}: prepare leaves nothing");
            let frames = test_frames(&shape);
            let expected = magcache_core::error::count(count, "frame");

            let mut short = output.writer().unwrap();
            frames[1..].iter().take(1).for_each(|f| short.push(f).unwrap());
            let text = short.finish().unwrap_err().to_string();
            let got = count.min(2) - 1;
            assert!(text.ends_with(&format!("was prepared for {expected}, got {got}")), "{text}");
            assert!(empty(), "{name}: too few frames leave nothing");

            let mut long = output.writer().unwrap();
            frames.iter().for_each(|f| long.push(f).unwrap());
            let text = long.push(&frames[0]).unwrap_err().to_string();
            assert!(text.ends_with(&format!("was prepared for {expected}, got one more")), "{text}");
            let text = long.push(&RgbImage::new(32, 32)).unwrap_err().to_string();
            assert!(text.ends_with("was prepared for frames of 32x16, got one of 32x32"), "{text}");
            drop(long);
            assert!(empty(), "{name}: a dropped writer leaves nothing");

            let mut whole = output.writer().unwrap();
            frames.iter().for_each(|f| whole.push(f).unwrap());
            assert!(!output.path().exists());
            whole.finish().unwrap();
            assert_eq!(output.path().is_dir(), output.format() == Format::Folder, "{name}");
            let beside = fs::read_dir(output.path().parent().unwrap()).unwrap().count();
            assert!(output.path().exists() && beside == 1, "{name}: nothing but the result remains");
        }
    }

    #[test]
    fn prepare_refuses_what_would_fail_after_the_run() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::write(at("file"), b"mine").unwrap();
        fs::create_dir(at("full")).unwrap();
        fs::write(at("full/x"), b"mine").unwrap();
        let refused = |name: &str, part: &str| {
            let text = Destination::prepare(at(name), SHAPE).unwrap_err().to_string();
            assert!(text.contains(part), "{text}");
        };
        refused("a.avi", "cannot write files that end in .avi");
        refused("full", "the folder is not empty");
        refused("file/a.mp4", "is a file, a folder is to be written there");
        refused("file", "is a file, a folder is to be written there");
        refused("a.png", "png holds one frame, got 3");
        refused("a.webp", "webp holds one frame, got 3");
        assert_eq!(fs::read(at("file")).unwrap(), b"mine");
    }

    #[cfg(unix)]
    #[test]
    fn prepare_refuses_a_folder_that_takes_no_files() {
        // Nobody can create files in `/proc`, not even root.
        if Path::new("/proc/self").is_dir() {
            let error = Destination::prepare("/proc/a.mp4", SHAPE).unwrap_err();
            assert_eq!(error.to_string(), "/proc: cannot write to this folder");
            assert!(std::error::Error::source(&error).is_some());
        }
    }

    #[test]
    fn a_slash_at_the_end_asks_for_a_folder() {
        let root = tempfile::tempdir().unwrap();
        let output = Destination::prepare(format!("{}/v1.2/", root.path().display()), SHAPE).unwrap();
        assert_eq!((output.format(), output.path()), (Format::Folder, root.path().join("v1.2").as_path()));
        let mut writer = output.writer().unwrap();
        test_frames(&SHAPE).iter().for_each(|f| writer.push(f).unwrap());
        writer.finish().unwrap();
        assert!(root.path().join("v1.2/00002.png").is_file());
    }
}

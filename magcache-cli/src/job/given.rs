//! The files that a request is about: pictures, a recording, a video of movements.

use std::{
    error::Error,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use magcache_audio::read_mono;
use magcache_models::{
    image::Picture,
    pipeline::{Pipeline, PoseVideo, Request, SamplingOptions},
    wav2vec2::{MAX_SECONDS, SAMPLE_RATE, Waveform},
};
use tempfile::TempPath;

use crate::media::{MediaError, VideoReader};

/// The file with the recording that is heard with a video.
#[derive(Debug)]
pub(crate) enum Sound {
    /// As given.
    Given(PathBuf),
    /// From the model's own folder.
    OfModel(TempPath),
}

impl Sound {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Given(path) => path,
            Self::OfModel(path) => path,
        }
    }
}

/// Reads the files of a request into it, those that the model offers included; returns the recording's.
pub(super) fn read(
    options: &SamplingOptions,
    pipeline: &dyn Pipeline,
    request: &mut Request,
) -> Result<Option<Sound>> {
    let picture = |path: &PathBuf| -> Result<Arc<Picture>> { Ok(Arc::new(Picture::read(path)?)) };
    request.image = match &options.image {
        Some(path) => Some(picture(path)?),
        None => pipeline.default_image()?.map(Arc::new),
    };
    request.image_2 = options.image_2.as_ref().map(picture).transpose()?;
    request.image_3 = options.image_3.as_ref().map(picture).transpose()?;
    request.last_image = options.last_image.as_ref().map(picture).transpose()?;
    if let Some(path) = &options.pose {
        request.pose = Some(Arc::new(PoseFile::open(path)?));
    }
    let sound = match &options.audio {
        Some(path) => Some(Sound::Given(path.clone())),
        None => pipeline.default_audio()?.map(|file| of_model(&file)).transpose()?,
    };
    if let Some(sound) = &sound {
        // One second more than is accepted, so that the error for longer ones is that of the model.
        let most = (MAX_SECONDS + 1) as f64;
        let samples = read_mono(sound.path(), SAMPLE_RATE as u32, Some(most)).map_err(MediaError::from)?;
        request.audio = Some(Arc::new(Waveform(samples)));
    }
    Ok(sound)
}

/// A video of movements, whose frames are read when a clip needs them.
#[derive(Debug)]
struct PoseFile {
    path: PathBuf,
    fps: f64,
    frames: usize,
}

/// Frames per second of a folder of pictures, which does not say.
const FOLDER_FPS: f64 = 16.0;

impl PoseFile {
    fn open(path: &Path) -> Result<Self> {
        let video = VideoReader::open(path)?;
        let fps = video.fps().unwrap_or(FOLDER_FPS);
        Ok(Self { path: path.to_owned(), fps, frames: video.frames() })
    }
}

impl PoseVideo for PoseFile {
    fn fps(&self) -> f64 {
        self.fps
    }

    fn frames(&self) -> usize {
        self.frames
    }

    fn read(&self, frames: &[usize]) -> Result<Vec<Picture>, Box<dyn Error + Send + Sync>> {
        let end = frames.last().map_or(0, |last| last + 1);
        let video = VideoReader::open(&self.path)?.take(end).enumerate();
        let wanted = |(i, _): &(usize, _)| frames.binary_search(i).is_ok();
        Ok(video.filter(wanted).map(|(_, picture)| picture).collect::<Result<_, _>>()?)
    }
}

fn of_model(file: &[u8]) -> Result<Sound> {
    let write = || -> std::io::Result<TempPath> {
        let mut temporary = tempfile::Builder::new().prefix("magcache-").suffix(".wav").tempfile()?;
        temporary.write_all(file)?;
        Ok(temporary.into_temp_path())
    };
    write().map(Sound::OfModel).context("cannot write the model's recording to a temporary file")
}

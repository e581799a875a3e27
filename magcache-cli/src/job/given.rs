//! The files that a request is about: pictures, a recording, a video of movements.

use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use magcache_audio::read_mono;
use magcache_models::{
    image::Picture,
    pipeline::{Pipeline, Request, SamplingOptions},
    wav2vec2::{MAX_SECONDS, SAMPLE_RATE, Waveform},
};
use tempfile::TempPath;

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
    request.last_image = options.last_image.as_ref().map(picture).transpose()?;
    let sound = match &options.audio {
        Some(path) => Some(Sound::Given(path.clone())),
        None => pipeline.default_audio()?.map(|file| of_model(&file)).transpose()?,
    };
    if let Some(sound) = &sound {
        // One second more than is accepted, so that the error for longer ones is that of the model.
        let most = (MAX_SECONDS + 1) as f64;
        let samples = read_mono(sound.path(), SAMPLE_RATE as u32, Some(most))?;
        request.audio = Some(Arc::new(Waveform(samples)));
    }
    Ok(sound)
}

fn of_model(file: &[u8]) -> Result<Sound> {
    let write = || -> std::io::Result<TempPath> {
        let mut temporary = tempfile::Builder::new().prefix("magcache-").suffix(".wav").tempfile()?;
        temporary.write_all(file)?;
        Ok(temporary.into_temp_path())
    };
    write().map(Sound::OfModel).context("cannot write the model's recording to a temporary file")
}

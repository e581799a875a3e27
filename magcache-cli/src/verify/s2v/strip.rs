//! A recorded pose video: a picture with its frames below each other.

use std::error::Error;

use anyhow::Result;
use magcache_models::{image::Picture, pipeline::PoseVideo};
use serde::Deserialize;

use crate::verify::case::Case;

/// `pose.json`.
#[derive(Deserialize)]
struct File {
    #[serde(rename = "file")]
    picture: String,
    frames: usize,
    height: usize,
    width: usize,
    fps: f64,
}

#[derive(Debug)]
pub(super) struct Strip {
    frames: Vec<Picture>,
    fps: f64,
}

impl Strip {
    pub(super) fn of(case: &Case) -> Result<Self> {
        let File { picture, frames, height, width, fps } = case.folder.read_json("pose.json")?;
        let pixels = Picture::read(case.path().join(picture))?;
        let bytes = 3 * height * width;
        let frame = |i: usize| {
            let rgb = pixels.rgb8().get(i * bytes..(i + 1) * bytes).unwrap_or_default();
            Picture::from_rgb8(width, height, rgb.to_vec())
        };
        Ok(Self { frames: (0..frames).map(frame).collect::<Result<_, _>>()?, fps })
    }
}

impl PoseVideo for Strip {
    fn fps(&self) -> f64 {
        self.fps
    }

    fn frames(&self) -> usize {
        self.frames.len()
    }

    fn read(&self, frames: &[usize]) -> Result<Vec<Picture>, Box<dyn Error + Send + Sync>> {
        let one = |i: &usize| self.frames.get(*i).cloned().ok_or_else(|| format!("no frame {i}").into());
        frames.iter().map(one).collect()
    }
}

//! One page of several comparisons, each with its pictures, its numbers and a link to the page of its own.

use std::path::{Path, PathBuf};

use anyhow::Result;
use magcache_core::error::count;
use maud::{Markup, html};
use serde_json::{Value, json};

use super::{Section, document, html::facts, numbers, pictures};
use crate::{
    compare::{Compared, PAGE},
    media,
};

#[derive(Default)]
pub(crate) struct Gallery {
    scenes: Vec<Section>,
    /// Of the longest video, and how fast it runs.
    frames: usize,
    fps: f64,
}

impl Gallery {
    /// Adds what was compared, whose files lie in a folder called `name` beside the page.
    pub(crate) fn add(&mut self, compared: &Compared<'_>, name: &str) -> Result<()> {
        let job = &compared.of.job;
        let request = &job.request;
        let frames =
            if job.frames == 1 { String::new() } else { format!("{}, ", count(job.frames, "frame")) };
        let facts = format!(
            "{}, {}, {frames}{}×{}, seed {}",
            job.pipeline.meta().name,
            count(job.trajectory.steps().count(), "step"),
            request.width(),
            request.height(),
            request.seed
        );
        let (given, lanes) = (pictures::given(job)?, pictures::lanes(&compared.of.folder, compared)?);
        let body = html! {
            p { (facts) }
            (given)
            (lanes)
            (numbers::table(compared))
            p { a href={ (name) "/" (PAGE) } { "Skipped steps, curves and configurations" } }
        };
        self.scenes.push((request.prompt.clone(), name.to_owned(), body));
        if job.frames >= self.frames {
            (self.frames, self.fps) = (job.frames, job.fps);
        }
        Ok(())
    }

    /// Writes the page into `folder`; scripts read `documents`.
    pub(crate) fn write(&self, folder: &Path, documents: &[Value]) -> Result<PathBuf> {
        let path = folder.join(PAGE);
        let controls = pictures::controls(self.frames, self.fps);
        let data = json!({ "scenes": documents });
        let page = document("a gallery", &head(&self.scenes), &controls, &self.scenes, &data)?;
        media::write_file(&path, page.as_bytes())?;
        Ok(path)
    }
}

fn head(scenes: &[Section]) -> Markup {
    html! {
        h1 { "Half of the steps, five ways" }
        p {
            "Each row starts from the same noise: the dense run, then runs that compute about half of its steps, by a planned "
            "schedule or a published strategy, and last a run without a cache that simply takes fewer steps. "
            "PSNR is against the dense run."
        }
        (facts([("Scenes", scenes.len().to_string())]))
    }
}

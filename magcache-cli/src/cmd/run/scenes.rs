//! What differs between the runs of one command: prompts and seeds.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use anyhow::Result;
use serde_json::{Value, json};

use crate::{
    args::Run,
    console::Console,
    job::{Job, read_prompts},
};

/// A prompt and a seed.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    prompt: String,
    seed: u64,
}

impl Scene {
    /// Every prompt with every seed, prompts outermost; those of the job if none are given.
    pub(super) fn all(args: &Run, job: &Job) -> Result<Vec<Self>> {
        let prompts = match &args.prompts {
            Some(file) => read_prompts(file)?,
            None => vec![job.request.prompt.clone()],
        };
        let seeds = if args.seeds.is_empty() { vec![job.request.seed] } else { args.seeds.clone() };
        let with = |prompt: String| {
            seeds.iter().map(move |seed| Self { prompt: prompt.clone(), seed: *seed }).collect::<Vec<_>>()
        };
        Ok(prompts.into_iter().flat_map(with).collect())
    }

    /// Sets the job's prompt and seed to those of this scene.
    pub(super) fn set(&self, job: &mut Job) -> Result<()> {
        let Self { prompt, seed } = self;
        (job.request.prompt, job.request.seed) = (prompt.clone(), *seed);
        let sampling = &mut job.config.sampling;
        (sampling.prompt, sampling.seed) = (Some(prompt.clone()), Some(*seed));
        Ok(job.pipeline.check(&job.request)?)
    }
}

impl fmt::Display for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, seed {}", self.prompt, self.seed)
    }
}

/// The name of run `i` of `n`, counted from 0: `clip.mp4` becomes `clip-01.mp4` to `clip-12.mp4`.
pub(super) fn numbered(base: &Path, i: usize, n: usize) -> PathBuf {
    let digits = n.to_string().len();
    let stem = base.file_stem().unwrap_or_default().to_string_lossy();
    let ending = base.extension().map_or(String::new(), |ending| format!(".{}", ending.to_string_lossy()));
    base.with_file_name(format!("{stem}-{:0digits$}{ending}", i + 1))
}

/// Prints the text and the document of every run as one answer: several become a list under `runs`.
pub(super) fn answer(reports: Vec<(String, Value)>, out: &Console) {
    let (texts, documents): (Vec<String>, Vec<Value>) = reports.into_iter().unzip();
    let document = match <[Value; 1]>::try_from(documents) {
        Ok([document]) => document,
        Err(documents) => json!({ "runs": documents }),
    };
    out.answer(&texts.join("\n"), &document);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_numbered_in_one_width() {
        let name = |base: &str, i, n| numbered(Path::new(base), i, n).display().to_string();
        assert_eq!([name("a/clip.mp4", 0, 2), name("a/clip.mp4", 1, 2)], ["a/clip-1.mp4", "a/clip-2.mp4"]);
        assert_eq!([name("frames", 8, 12), name("x.tar.gz", 11, 12)], ["frames-09", "x.tar-12.gz"]);
    }
}

//! Reads prompts from standard input and from files.

use std::{io, path::Path};

use anyhow::Result;
use magcache_models::pipeline::Offload;

use super::{Config, Job};
use crate::{
    args::Runs,
    console::{bad_input, bad_input_with},
};

/// The prompt as typed, or standard input for `-`.
pub(crate) fn prompt(typed: Option<&str>) -> Result<Option<String>> {
    match typed {
        Some("-") => match io::read_to_string(io::stdin()) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) => Err(bad_input(format!("cannot read the prompt from standard input: {error}"))),
        },
        typed => Ok(typed.map(str::to_owned)),
    }
}

impl Runs {
    /// The job for `config`, with everything that all runs share.
    pub(crate) fn job(&self, mut config: Config) -> Result<Job> {
        let negative = &mut config.sampling.negative_prompt;
        *negative = self.negative_prompt.clone().or(negative.take());
        if self.seeds.is_empty() {
            return Err(bad_input_with("no seeds", "--seeds 0,1"));
        }
        Job::new(config, self.placement.options(Offload::None, false)?)
    }

    /// The prompts of the flags and of the file, or the job's own.
    pub(crate) fn prompts(&self, job: &Job) -> Result<Vec<String>> {
        let mut prompts = self.prompt.clone();
        if let Some(path) = &self.prompts {
            prompts.extend(read_prompts(path)?);
        }
        if prompts.is_empty() {
            prompts.push(job.request.prompt.clone());
        }
        Ok(prompts)
    }
}

/// The prompts in a file, one per line; empty lines and lines that begin with # are skipped.
pub(crate) fn read_prompts(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let message = format!("cannot read {}: {error}", path.display());
        bad_input_with(message, "a file with a prompt on each line")
    })?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let prompts: Vec<String> = lines.map(str::to_owned).collect();
    if prompts.is_empty() {
        return Err(bad_input_with(format!("{} has no prompts", path.display()), "one on each line"));
    }
    Ok(prompts)
}

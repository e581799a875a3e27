//! One generation: what it is of, where it runs and what it writes.

use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};

use super::{Placement, Sampling, Writing, sampling::prompt_help};

#[expect(clippy::struct_field_names, reason = "a dry run is what it is called")]
#[derive(Debug, ClapArgs)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) sampling: Sampling,
    /// What to show; the embedded models know few words, see --help
    #[arg(long, value_name = "TEXT", long_help = prompt_help())]
    pub(crate) prompt: Option<String>,
    /// A file with a prompt on each line: one run for each, with numbered names; empty lines and those with #
    /// are left out
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    pub(crate) prompts: Option<PathBuf>,
    /// What not to show
    #[arg(long)]
    pub(crate) negative_prompt: Option<String>,
    /// Seed of the initial noise
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Several seeds, each with every prompt: one run for each, with numbered names
    #[arg(long, value_name = "N,N", value_delimiter = ',', conflicts_with = "seed")]
    pub(crate) seeds: Vec<u64>,
    #[command(flatten)]
    pub(crate) placement: Placement,
    /// Where the weights of an expert are while the other one runs
    #[arg(long, help_heading = "Machine", value_enum, default_value_t)]
    pub(crate) offload: Offload,
    /// Encode and decode in tiles of 256 pixels: bounded memory for large frames
    #[arg(long, help_heading = "Machine")]
    pub(crate) tile_vae: bool,
    /// FILE.mp4, .gif, .png or .webp, or a folder of PNG frames; a free name without. The configuration is
    /// FILE.mp4.toml
    #[arg(long, help_heading = "Output", value_name = "FILE|DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Frames per second of a video; the model's own without
    #[arg(long, help_heading = "Output", value_name = "N")]
    pub(crate) fps: Option<f64>,
    #[command(flatten)]
    pub(crate) writing: Writing,
    /// Writes every decision, one JSON line per pass
    #[arg(long, help_heading = "Output", value_name = "FILE.jsonl")]
    pub(crate) trace: Option<PathBuf>,
    /// Stores the state of the run in this folder: after a kill the same command goes on from there
    #[arg(long, help_heading = "Output", value_name = "DIR")]
    pub(crate) checkpoint: Option<PathBuf>,
    /// Stores it after every so many steps
    #[arg(long, help_heading = "Output", value_name = "STEPS", requires = "checkpoint", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) checkpoint_every: u64,
    /// Computes this part of the skipped passes as well, 0 to 1, and reports the true error of the reuse
    #[arg(long, help_heading = "Audit of the cache", value_name = "FRACTION")]
    pub(crate) audit: Option<f64>,
    /// Most drift: the audited errors added up, each in place of 1/FRACTION reuses
    #[arg(long, help_heading = "Audit of the cache", value_name = "ERROR")]
    pub(crate) drift_budget: Option<f64>,
    /// What is done when it is passed
    #[arg(long, help_heading = "Audit of the cache", value_enum)]
    pub(crate) on_drift: Option<OnDrift>,
    /// Prints the resolved configuration and runs nothing
    #[arg(long, help_heading = "Output")]
    pub(crate) dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnDrift {
    /// It is reported
    Report,
    /// Half as many consecutive skips are allowed from then on
    Tighten,
    /// Every later pass is computed
    Disable,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Offload {
    /// In the device's memory
    #[default]
    None,
    /// In the machine's memory, if the device has its own
    Host,
    /// On disk: one expert in memory at a time
    Disk,
}

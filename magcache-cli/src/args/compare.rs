//! Several configurations side by side.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::{
    Metrics, Placement, Prompt, RanksArgs, Sampling, Writing,
    shared::{MACHINE, OUTPUT, SAMPLING, prompt_help},
};

#[derive(Debug, ClapArgs)]
pub(crate) struct Demo {
    /// Folder for the pictures and report.html [default: magcache-demo, or the next unused number]
    #[arg(long, help_heading = OUTPUT, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Model folder, or name of an embedded model
    #[arg(long, value_name = "DIR|NAME")]
    pub(crate) model: Option<String>,
    /// What to show; the embedded models know few words, see --help
    #[arg(long, value_name = "TEXT", long_help = prompt_help())]
    pub(crate) prompt: Option<String>,
    /// Sampling steps
    #[arg(long)]
    pub(crate) steps: Option<usize>,
    /// Seed of the initial noise
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// One model and the strategies alone, without a planned schedule and without fewer steps
    #[arg(long)]
    pub(crate) quick: bool,
    #[command(flatten)]
    pub(crate) writing: Writing,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Compare {
    /// Strategies with the defaults of their profiles, replay:TRACE, or configuration files; NAME=... sets a
    /// name
    ///
    /// If none is given: the caches of --config, --cache or a planned target; without those, magcache,
    /// teacache and fbcache, except for those that need a profile if the model has none.
    #[arg(value_name = "STRATEGY|FILE.toml")]
    pub(crate) configs: Vec<String>,
    #[command(flatten)]
    pub(crate) sampling: Sampling,
    #[command(flatten)]
    pub(crate) prompt: Prompt,
    /// Seeds of the initial noise: quality is the mean over them, pictures are of the first
    #[arg(long, help_heading = SAMPLING, value_name = "N,N", value_delimiter = ',')]
    pub(crate) seeds: Vec<u64>,
    /// How often each seed runs; times are medians
    #[arg(long, help_heading = SAMPLING, value_name = "N", default_value_t = 1)]
    pub(crate) repeat: usize,
    #[command(flatten)]
    pub(crate) metrics: Metrics,
    #[command(flatten)]
    pub(crate) placement: Placement,
    #[command(flatten)]
    pub(crate) ranks: RanksArgs,
    /// Encode and decode in tiles of 256 pixels, which bounds the memory for large frames
    #[arg(long, help_heading = MACHINE)]
    pub(crate) tile_vae: bool,
    /// Folder for the pictures and report.html [default: magcache-compare, or the next unused number]
    #[arg(long, help_heading = OUTPUT, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) writing: Writing,
    /// Draw how far the latents are from those of the dense run after each step
    #[arg(long, help_heading = OUTPUT, value_name = "FILE.svg|.png")]
    pub(crate) plot: Option<PathBuf>,
}

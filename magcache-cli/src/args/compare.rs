//! Several configurations side by side.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use magcache_models::checkpoint::Ops;

use super::{Placement, Sampling, Writing, sampling::prompt_help};

#[derive(Debug, ClapArgs)]
pub(crate) struct Demo {
    /// Folder for the videos or images and report.html; magcache-demo, or the next free number, without
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) writing: Writing,
    /// A model folder, or the name of an embedded model
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
    /// As the whole program is told: see [`Command::compute_with`](super::Command::compute_with).
    #[arg(skip)]
    pub(crate) ops: Ops,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Compare {
    /// Strategies with their profile's defaults, replay:TRACE, or configuration files; NAME=... names one
    ///
    /// Without any, the caches of --config or --cache or a planned target, or else magcache, teacache and
    /// fbcache.
    #[arg(value_name = "STRATEGY|FILE.toml")]
    pub(crate) configs: Vec<String>,
    #[command(flatten)]
    pub(crate) sampling: Sampling,
    /// What to show; the embedded models know few words, see --help
    #[arg(long, value_name = "TEXT", long_help = prompt_help())]
    pub(crate) prompt: Option<String>,
    /// What not to show
    #[arg(long)]
    pub(crate) negative_prompt: Option<String>,
    /// Seeds of the initial noise: quality is the mean over them, pictures are the first one's
    #[arg(long, value_name = "N,N", value_delimiter = ',')]
    pub(crate) seeds: Vec<u64>,
    /// How often each seed runs: times are medians
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) repeat: usize,
    #[command(flatten)]
    pub(crate) placement: Placement,
    /// Encode and decode in tiles of 256 pixels: bounded memory for large frames
    #[arg(long)]
    pub(crate) tile_vae: bool,
    /// Folder for the videos or images and report.html; magcache-compare, or the next free number, without
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) writing: Writing,
    /// Draws how far the latents are from the dense run's after each step
    #[arg(long, value_name = "FILE.svg|.png")]
    pub(crate) plot: Option<PathBuf>,
}

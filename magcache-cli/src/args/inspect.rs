//! What is looked at without a run, or before one.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use magcache_models::checkpoint::Ops;

use super::{Sampling, Writing};

#[derive(Debug, ClapArgs)]
pub(crate) struct Schedule {
    #[command(flatten)]
    pub(crate) sampling: Sampling,
    /// Draws the noise levels with the skipped steps
    #[arg(long, value_name = "FILE.svg|.png")]
    pub(crate) plot: Option<PathBuf>,
    /// Writes the schedule: FILE.toml for --cache replay:FILE.toml, FILE.json as a 0/1 compute mask
    #[arg(long, value_name = "FILE.toml|.json")]
    pub(crate) export: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) writing: Writing,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct List {
    /// Prints a configuration of this strategy that parses
    #[arg(long, value_name = "STRATEGY")]
    pub(crate) example: Option<String>,
    /// Every key of a strategy, a forecast or a table of the configuration, with type, default, range and
    /// meaning; of all of them without a name
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "", conflicts_with = "example")]
    pub(crate) keys: Option<String>,
    /// The same for all of them, as the page in the documentation
    #[arg(long, requires = "keys")]
    pub(crate) markdown: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Inspect {
    /// The name of an embedded model, a model folder, a component folder or a safetensors file; the default
    /// model without
    #[arg(value_name = "NAME|DIR|FILE")]
    pub(crate) path: Option<PathBuf>,
    /// Lists every tensor
    #[arg(long)]
    pub(crate) tensors: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Verify {
    /// Case folders, folders of cases, decision tables, or patterns with *
    #[arg(required = true, value_name = "CASE")]
    pub(crate) cases: Vec<PathBuf>,
    /// A case that this build cannot run does not fail the command
    #[arg(long)]
    pub(crate) allow_skipped: bool,
    /// As the whole program is told: see [`Command::compute_with`](super::Command::compute_with).
    #[arg(skip)]
    pub(crate) ops: Ops,
}

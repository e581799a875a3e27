//! Commands that generate nothing.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use clap_complete::Shell;

use super::{Sampling, Writing, shared::OUTPUT};

#[derive(Debug, ClapArgs)]
pub(crate) struct Schedule {
    #[command(flatten)]
    pub(crate) sampling: Sampling,
    /// Draw the noise levels and the skipped steps
    #[arg(long, help_heading = OUTPUT, value_name = "FILE.svg|.png")]
    pub(crate) plot: Option<PathBuf>,
    /// Write the schedule: FILE.toml for --cache replay:FILE.toml, or FILE.json with a 0/1 compute mask
    #[arg(long, help_heading = OUTPUT, value_name = "FILE.toml|.json")]
    pub(crate) export: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) writing: Writing,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct List {
    /// Print a valid configuration of this strategy
    #[arg(long, value_name = "STRATEGY")]
    pub(crate) example: Option<String>,
    /// Explain every key of a strategy, a forecast or a table of the configuration: type, default, range and
    /// meaning; without a name, of all of them
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "", conflicts_with = "example")]
    pub(crate) keys: Option<String>,
    /// List the models of the hub in its cache on this machine
    #[arg(long, conflicts_with_all = ["example", "keys"])]
    pub(crate) downloaded: bool,
    /// Print all keys as the page of the documentation
    #[arg(long, requires = "keys")]
    pub(crate) markdown: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Pull {
    /// Model on the hub; of several files, the one that VARIANT names (`Q4_K_M`), or the precision (`fp16`)
    #[arg(value_name = "OWNER/NAME[@REVISION][:VARIANT]")]
    pub(crate) name: String,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Remove {
    /// Model in the cache of the hub
    #[arg(value_name = "OWNER/NAME")]
    pub(crate) name: String,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Inspect {
    /// Name of an embedded model, model folder, folder of one component, or safetensors file; the default
    /// model if left out
    #[arg(value_name = "NAME|DIR|FILE")]
    pub(crate) path: Option<PathBuf>,
    /// List every tensor
    #[arg(long)]
    pub(crate) tensors: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Verify {
    /// Folders with a case or with several, decision tables, or patterns with *
    #[arg(required = true, value_name = "CASE")]
    pub(crate) cases: Vec<PathBuf>,
    /// Do not fail because of a case that this build cannot run
    #[arg(long)]
    pub(crate) allow_skipped: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Profile {
    /// Show how two profiles differ and what caches would do differently; the exit code is 1 if they differ
    Diff(ProfileDiff),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ProfileDiff {
    /// Built-in profile, or path of one
    #[arg(value_name = "NAME|FILE")]
    pub(crate) a: String,
    /// The profile to compare it with
    #[arg(value_name = "NAME|FILE")]
    pub(crate) b: String,
    /// Treat values as equal if they differ by no more than this
    #[arg(long, default_value_t = 0.0)]
    pub(crate) tolerance: f64,
    /// Draw the ratios of both
    #[arg(long, help_heading = OUTPUT, value_name = "FILE.svg|.png")]
    pub(crate) plot: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) writing: Writing,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Trace {
    /// Show the decisions that differ between two traces; the exit code is 1 if any do
    Diff {
        /// Trace written by run --trace
        #[arg(value_name = "FILE.jsonl")]
        a: PathBuf,
        /// The trace to compare it with
        #[arg(value_name = "FILE.jsonl")]
        b: PathBuf,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Man {
    /// The command to print the page of; without one, the page of the program
    pub(crate) command: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Doctor {
    /// Join the ranks that a launcher started, and measure the way between them
    #[arg(long)]
    pub(crate) ranks: bool,
}

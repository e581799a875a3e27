//! Two files of a kind, compared.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

use super::Writing;

#[derive(Debug, ClapArgs)]
pub(crate) struct Profile {
    #[command(subcommand)]
    pub(crate) what: ProfileKind,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProfileKind {
    /// What two profiles say differently, and what caches would do differently for it; exit code 1 if they
    /// differ
    Diff(ProfileDiff),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ProfileDiff {
    /// A built-in profile, or the path of one
    #[arg(value_name = "NAME|FILE")]
    pub(crate) a: String,
    /// The one that it is compared with
    #[arg(value_name = "NAME|FILE")]
    pub(crate) b: String,
    /// Values that differ by no more than this are equal
    #[arg(long, default_value_t = 0.0)]
    pub(crate) tolerance: f64,
    /// Draws the ratios of both
    #[arg(long, value_name = "FILE.svg|.png")]
    pub(crate) plot: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) writing: Writing,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Trace {
    #[command(subcommand)]
    pub(crate) what: TraceKind,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TraceKind {
    /// Decisions that differ between two traces; exit code 1 if some do
    Diff(TraceDiff),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct TraceDiff {
    /// Written by run --trace
    #[arg(value_name = "FILE.jsonl")]
    pub(crate) a: PathBuf,
    /// The one that it is compared with
    #[arg(value_name = "FILE.jsonl")]
    pub(crate) b: PathBuf,
}

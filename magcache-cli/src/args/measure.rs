//! Runs over many prompts and seeds: what is measured of them.

use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};

use super::{Placement, Sampling, Writing};

/// What is run, and where.
#[derive(Debug, ClapArgs)]
pub(crate) struct Runs {
    /// A prompt; several may be given
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: Vec<String>,
    /// A file with a prompt on each line; empty lines and those that begin with # are left out
    #[arg(long, value_name = "FILE")]
    pub(crate) prompts: Option<PathBuf>,
    /// What not to show
    #[arg(long)]
    pub(crate) negative_prompt: Option<String>,
    /// Seeds of the initial noise, each with every prompt
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "0,1")]
    pub(crate) seeds: Vec<u64>,
    #[command(flatten)]
    pub(crate) placement: Placement,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Calibrate {
    #[command(flatten)]
    pub(crate) sampling: Sampling,
    #[command(flatten)]
    pub(crate) runs: Runs,
    /// Rehearses each step with the residuals of so many steps before it, for planned schedules; 0 plans
    /// none. Each costs as much as a skipped step
    #[arg(long, value_name = "STEPS", default_value_t = 8)]
    pub(crate) reach: usize,
    /// Follows an error to the end of the run from so many steps; each costs half a run on average
    #[arg(long, value_name = "STEPS", default_value_t = 4)]
    pub(crate) growth: usize,
    /// Which of two schedules of as many computed steps is planned
    #[arg(long, value_enum, default_value_t)]
    pub(crate) objective: Objective,
    /// Adds the runs of an earlier calibration under the same settings; several may be given
    #[arg(long, value_name = "FILE.toml")]
    pub(crate) merge: Vec<PathBuf>,
    /// Measures SenCache's sensitivities too: two more passes at every step
    #[arg(long)]
    pub(crate) sensitivities: bool,
    /// The profile; its raw rows go beside it, as FILE.safetensors. profile.toml, or the next free number,
    /// without
    #[arg(long, value_name = "FILE.toml")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) writing: Writing,
    /// Draws the curve
    #[arg(long, value_name = "FILE.svg|.png")]
    pub(crate) plot: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Pareto {
    #[command(flatten)]
    pub(crate) sampling: Sampling,
    #[command(flatten)]
    pub(crate) runs: Runs,
    /// Numbers of computed steps; six between a quarter and three quarters of the steps without
    #[arg(long, value_name = "STEPS,STEPS", value_delimiter = ',')]
    pub(crate) budgets: Vec<usize>,
    /// Strategies beside planned schedules, each at the threshold that meets the budget
    #[arg(
        long,
        value_name = "NAME,NAME",
        value_delimiter = ',',
        default_value = "magcache,teacache,fbcache"
    )]
    pub(crate) strategies: Vec<String>,
    /// So many of the prompts, each with the first seed, are tried to find the thresholds; each holds a
    /// network
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) search: usize,
    /// Draws the curves
    #[arg(long, value_name = "FILE.svg|.png")]
    pub(crate) plot: Option<PathBuf>,
    /// Writes --profile with the measured PSNR and SSIM of its schedules
    #[arg(long, value_name = "FILE.toml")]
    pub(crate) save: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) writing: Writing,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Objective {
    /// The one with the smaller sum of predicted errors
    #[default]
    Sum,
    /// The one with the smaller largest error, then the smaller sum
    Minimax,
}

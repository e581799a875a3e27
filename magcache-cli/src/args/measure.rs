//! Runs over many prompts and seeds: what is measured of them.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use magcache_core::planner::Objective;

use super::{Metrics, Placement, RanksArgs, Sampling, WindowArg, Writing, shared::OUTPUT};

const MEASUREMENT: &str = "Measurement";

/// What is run, and where.
#[derive(Debug, ClapArgs)]
pub(crate) struct Runs {
    /// A prompt; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: Vec<String>,
    /// File with one prompt per line; empty lines and lines that start with # are skipped
    #[arg(long, value_name = "FILE")]
    pub(crate) prompts: Option<PathBuf>,
    /// What not to show
    #[arg(long, value_name = "TEXT")]
    pub(crate) negative_prompt: Option<String>,
    /// Seeds of the initial noise; every prompt runs with each of them
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
    #[command(flatten)]
    pub(crate) ranks: RanksArgs,
    /// For planned schedules, repeat each step with the residuals of this many earlier steps; each repetition
    /// costs as much as a skipped step; 0 plans nothing
    #[arg(long, help_heading = MEASUREMENT, value_name = "STEPS", default_value_t = 8)]
    pub(crate) reach: usize,
    /// Follow the error of this many steps to the end of the run; each costs half a run on average
    #[arg(long, help_heading = MEASUREMENT, value_name = "STEPS", default_value_t = 8)]
    pub(crate) growth: usize,
    /// How to choose between schedules that compute the same number of steps, by what is predicted: final is
    /// the error of the result; sum, power:GAMMA and minimax are of the errors of single steps
    #[arg(long, help_heading = MEASUREMENT, value_name = "OBJECTIVE", default_value_t)]
    pub(crate) objective: Objective,
    /// Most steps that a schedule skips in a row [default: as many as --reach measures]
    #[arg(long, help_heading = MEASUREMENT, value_name = "STEPS")]
    pub(crate) max_gap: Option<usize>,
    /// Plan steps too at which the first FRONT and the last BACK blocks run on what those between would have
    /// made; each costs --reach such steps [default: auto for at most 8 steps: the first and the last sixth,
    /// and all but the last sixth; else none]
    #[arg(long, help_heading = MEASUREMENT, value_name = "FRONT+BACK", value_delimiter = ',')]
    pub(crate) windows: Vec<WindowArg>,
    #[command(flatten)]
    pub(crate) search: SearchArgs,
    /// Add the runs of an earlier calibration with the same settings; may be given several times
    #[arg(long, help_heading = MEASUREMENT, value_name = "FILE.toml")]
    pub(crate) merge: Vec<PathBuf>,
    /// Measure the sensitivities for SenCache too: two more passes at every step
    #[arg(long, help_heading = MEASUREMENT)]
    pub(crate) sensitivities: bool,
    /// The profile; its raw rows are written next to it, as FILE.safetensors [default: profile.toml, or the
    /// next unused number]
    #[arg(long, help_heading = OUTPUT, value_name = "FILE.toml")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) writing: Writing,
    /// Draw the curve
    #[arg(long, help_heading = OUTPUT, value_name = "FILE.svg|.png")]
    pub(crate) plot: Option<PathBuf>,
}

/// How much is searched for schedules that are better than the planned ones.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Search")]
pub(crate) struct SearchArgs {
    /// Look for better schedules by running at most this many for each number of computed steps, each over
    /// all prompts and seeds; scored by the pictures' PSNR, with a quarter of the runs held back
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) search: usize,
    /// Numbers of computed steps to search for [default: a third and half of the steps]
    #[arg(long, value_name = "STEPS,STEPS", value_delimiter = ',', requires = "search")]
    pub(crate) search_budgets: Vec<usize>,
    /// Stop searching after this many minutes
    #[arg(long, value_name = "MINUTES", requires = "search")]
    pub(crate) search_minutes: Option<f64>,
    /// Seed of the schedules that a search goes on from once it has climbed from the planned one
    #[arg(long, value_name = "N", default_value_t = 0, requires = "search")]
    pub(crate) search_seed: u64,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Pareto {
    #[command(flatten)]
    pub(crate) sampling: Sampling,
    #[command(flatten)]
    pub(crate) runs: Runs,
    /// Numbers of computed steps [default: six between a quarter and three quarters of the steps]
    #[arg(long, help_heading = MEASUREMENT, value_name = "STEPS,STEPS", value_delimiter = ',')]
    pub(crate) budgets: Vec<usize>,
    /// Strategies to compare with planned schedules, each at the threshold that meets the budget
    #[arg(
        long,
        help_heading = MEASUREMENT,
        value_name = "NAME,NAME",
        value_delimiter = ',',
        default_value = "magcache,teacache,fbcache"
    )]
    pub(crate) strategies: Vec<String>,
    /// Search the thresholds with the first seed of this many prompts
    #[arg(long, help_heading = MEASUREMENT, value_name = "N", default_value_t = 2)]
    pub(crate) search: usize,
    #[command(flatten)]
    pub(crate) metrics: Metrics,
    /// Draw the curves
    #[arg(long, help_heading = OUTPUT, value_name = "FILE.svg|.png")]
    pub(crate) plot: Option<PathBuf>,
    /// Write --profile with the measured PSNR and SSIM of its schedules
    #[arg(long, help_heading = OUTPUT, value_name = "FILE.toml")]
    pub(crate) save: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) writing: Writing,
}

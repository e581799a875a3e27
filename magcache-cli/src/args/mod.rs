//! What was typed.

mod bench;
mod compare;
mod files;
mod inspect;
mod measure;
mod run;
mod selftest;
mod shared;
mod windows;

use std::{env, sync::LazyLock};

use clap::{ArgAction, Parser, Subcommand};

pub(crate) use bench::{Bench, BenchCache, BenchForward, BenchModel};
pub(crate) use compare::{Compare, Demo};
pub(crate) use files::{Files, Lora, Loras};
pub(crate) use inspect::{
    Completions, Doctor, Inspect, List, Man, Profile, Pull, Remove, Schedule, Trace, Verify,
};
pub(crate) use measure::{Calibrate, Pareto, Runs, SearchArgs};
pub(crate) use run::{OnDrift, RanksArgs, Run, SoundMode};
pub(crate) use selftest::{Group, Selftest};
pub(crate) use shared::{Dtype, MemoryLimit, Metric, Metrics, Placement, Prompt, Sampling, Writing};
pub(crate) use windows::{WindowArg, windows};

/// Timestep caching for diffusion transformers: run, plan, verify and compare.
///
/// Every command that runs a model works without arguments, on a small model inside the program.
#[derive(Debug, Parser)]
#[command(name = crate::PROGRAM, version, long_version = build_information(), propagate_version = true, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Print one JSON document on stdout; progress and notes go to stderr
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Compute with candle's own operations instead of this program's kernels: slower, for comparison
    #[arg(long, global = true)]
    pub(crate) reference_ops: bool,
    /// Print only errors and, with --json, the document
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// Log what is done and how long it takes; twice, every decision too. `RUST_LOG` selects more finely
    #[arg(long, short, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// The version, and how this program was built.
fn build_information() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let commit =
            option_env!("MAGCACHE_COMMIT").map(|commit| format!(", commit {commit}")).unwrap_or_default();
        let built = if cfg!(debug_assertions) { "debug" } else { "release" };
        let devices = if cfg!(feature = "cuda") { "CPU and CUDA" } else { "CPU" };
        let (version, arch, os) = (env!("CARGO_PKG_VERSION"), env::consts::ARCH, env::consts::OS);
        format!("{version}{commit} ({built} build for {arch} {os}, computes on {devices})")
    });
    &TEXT
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a model with each strategy and without a cache: speed, ceiling and picture quality side by side
    Demo(Demo),
    /// Generate an image or a video
    Run(Run),
    /// Compare configurations with the dense run, and with fewer steps without a cache
    Compare(Compare),
    /// Measure a model with dense runs over prompts and seeds, and write a profile for its caches
    Calibrate(Calibrate),
    /// Measure quality against computed steps over prompts and seeds, for strategies, planned schedules and
    /// fewer steps
    Pareto(Pareto),
    /// Show what a strategy will skip, without loading weights
    Schedule(Schedule),
    /// List the strategies, models, profiles and samplers of this build
    List(List),
    /// Download a model from the hub, or what is new of it
    Pull(Pull),
    /// Remove a model from the cache of the hub
    Rm(Remove),
    /// Show what a checkpoint contains and which model loads it
    Inspect(Inspect),
    /// Run reference cases and compare every output
    Verify(Verify),
    /// Compare calibration profiles
    #[command(subcommand)]
    Profile(Profile),
    /// Compare the recorded decisions of runs
    #[command(subcommand)]
    Trace(Trace),
    /// Measure the time of one network, the overhead of the cache, or the machine
    #[command(subcommand)]
    Bench(Bench),
    /// Show what this machine and this start of the program have for several ranks
    Doctor(Doctor),
    /// Check a device: reference cases, operations, pictures and memory on it, then times against its limits
    Selftest(Selftest),
    /// Print completions for a shell
    Completions(Completions),
    /// Print the manual page of the program or of a command
    Man(Man),
}

//! What was typed.

mod bench;
mod compare;
mod diff;
mod inspect;
mod measure;
mod placement;
mod run;
mod sampling;
mod shell;
mod writing;

use std::{env, sync::LazyLock};

use clap::{ArgAction, Parser, Subcommand};
use magcache_models::checkpoint::Ops;

pub(crate) use bench::{Bench, BenchCache, BenchForward, BenchKind, BenchModel, BenchText, BenchVae};
pub(crate) use compare::{Compare, Demo};
pub(crate) use diff::{Profile, ProfileKind, Trace, TraceKind};
pub(crate) use inspect::{Inspect, List, Schedule, Verify};
pub(crate) use measure::{Calibrate, Objective, Pareto, Runs};
pub(crate) use placement::{Dtype, Placement};
pub(crate) use run::{Offload, OnDrift, Run};
pub(crate) use sampling::Sampling;
pub(crate) use shell::{Completions, Man};
pub(crate) use writing::Writing;

/// Timestep caching for diffusion transformers: run, plan, verify and compare.
///
/// Every command that runs a model works without arguments, on a small model inside the program.
#[derive(Debug, Parser)]
#[command(name = crate::PROGRAM, version, long_version = build_information(), propagate_version = true, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// One machine-readable document on stdout; progress and notes go to stderr
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Computes with candle's own operations in place of this program's kernels, to compare the two; slower
    #[arg(long, global = true)]
    pub(crate) reference_ops: bool,
    /// Prints nothing but errors, and with --json the document
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// Tells what is done and how long it takes; twice, every decision too. `RUST_LOG` chooses more finely
    #[arg(long, short, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
}

impl Command {
    /// Hands on what layers compute with to every command that loads some.
    pub(crate) fn compute_with(&mut self, ops: Ops) {
        match self {
            Self::Demo(args) => args.ops = ops,
            Self::Run(args) => args.placement.ops = ops,
            Self::Compare(args) => args.placement.ops = ops,
            Self::Calibrate(args) => args.runs.placement.ops = ops,
            Self::Pareto(args) => args.runs.placement.ops = ops,
            Self::Verify(args) => args.ops = ops,
            Self::Bench(args) => match &mut args.what {
                BenchKind::Forward(args) => args.model.ops = ops,
                BenchKind::Vae(args) => args.model.ops = ops,
                BenchKind::Text(args) => args.model.ops = ops,
                BenchKind::Cache(args) => args.model.ops = ops,
                BenchKind::Overhead { .. } | BenchKind::Machine { .. } => {}
            },
            Self::Schedule(_)
            | Self::List(_)
            | Self::Inspect(_)
            | Self::Profile(_)
            | Self::Trace(_)
            | Self::Completions(_)
            | Self::Man(_) => {}
        }
    }
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
    /// One dense run and one per strategy, side by side: speed, ceiling and picture quality
    Demo(Demo),
    /// One generation
    Run(Run),
    /// Dense against any number of configurations, and against fewer steps without a cache
    Compare(Compare),
    /// Measures a model: dense runs over prompts and seeds to a profile for its caches
    Calibrate(Calibrate),
    /// Quality against computed steps: strategies, planned schedules and fewer steps, over prompts and seeds
    Pareto(Pareto),
    /// What a strategy will skip, without loading weights
    Schedule(Schedule),
    /// Strategies, models, profiles and samplers of this build
    List(List),
    /// What a checkpoint is, and what would load it
    Inspect(Inspect),
    /// Runs reference cases and compares every output
    Verify(Verify),
    /// Compares calibration profiles
    Profile(Profile),
    /// Compares the recorded decisions of runs
    Trace(Trace),
    /// Times one forward, or the cost of the cache itself
    Bench(Bench),
    /// Prints completions for a shell
    Completions(Completions),
    /// Prints the manual page of the program or of a command
    Man(Man),
}

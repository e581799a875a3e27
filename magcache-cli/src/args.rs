//! What was typed.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

/// Timestep caching for diffusion transformers: run, plan, verify and compare.
///
/// Every command works without arguments on a small model inside the program.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// One machine-readable document on stdout; progress and notes go to stderr
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// No progress and no notes
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
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
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Demo {
    /// Folder for the videos or images and report.html
    #[arg(long, default_value = "magcache-demo")]
    pub(crate) out: PathBuf,
    /// A model folder, or the name of an embedded model
    #[arg(long, value_name = "DIR|NAME")]
    pub(crate) model: Option<String>,
    /// Prompt
    #[arg(long)]
    pub(crate) prompt: Option<String>,
    /// Sampling steps
    #[arg(long)]
    pub(crate) steps: Option<usize>,
    /// Seed of the initial noise
    #[arg(long)]
    pub(crate) seed: Option<u64>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Compare {
    /// Strategies with their profile's defaults, replay:TRACE, or configuration files; NAME=... names one
    ///
    /// Without any, the caches of --config or --cache or a planned target, or else magcache, teacache and fbcache.
    #[arg(value_name = "STRATEGY|FILE.toml")]
    pub(crate) configs: Vec<String>,
    #[command(flatten)]
    pub(crate) sampling: Sampling,
    /// What to show
    #[arg(long)]
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
    /// How weights are kept in memory; arithmetic on a CPU is f32
    #[arg(long, value_enum, default_value_t)]
    pub(crate) dtype: Dtype,
    /// cpu, cuda:N or metal
    #[arg(long, default_value = "cpu")]
    pub(crate) device: String,
    /// Encode and decode in tiles of 256 pixels: bounded memory for large frames
    #[arg(long)]
    pub(crate) tile_vae: bool,
    /// Folder for the videos or images and report.html
    #[arg(long, default_value = "magcache-compare")]
    pub(crate) out: PathBuf,
}

/// What every command that plans a run understands.
#[derive(Debug, Default, ClapArgs)]
pub(crate) struct Sampling {
    /// A model folder, or the name of an embedded model
    #[arg(long, value_name = "DIR|NAME")]
    pub(crate) model: Option<String>,
    /// Settings as TOML; flags override it
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Sampling steps
    #[arg(long)]
    pub(crate) steps: Option<usize>,
    /// Pixels
    #[arg(long, value_name = "WxH", value_parser = size)]
    pub(crate) size: Option<[usize; 2]>,
    /// Frames; 1 for an image
    #[arg(long)]
    pub(crate) frames: Option<usize>,
    /// Scale of classifier-free guidance, at most 1 is without; what a guidance-distilled model is told
    #[arg(long)]
    pub(crate) guidance: Option<f64>,
    /// Scale of classifier-free guidance in a guidance-distilled model
    #[arg(long, value_name = "GUIDANCE")]
    pub(crate) true_cfg: Option<f64>,
    /// The same for the second expert of a model that has two
    #[arg(long, value_name = "GUIDANCE")]
    pub(crate) guidance_2: Option<f64>,
    /// The part of the noise below which the second expert runs, 0 to 1
    #[arg(long, value_name = "RATIO")]
    pub(crate) boundary: Option<f64>,
    /// First frame of a video, or the image that an image is made from, for models that take one
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Option<PathBuf>,
    /// Image to image: the part of the steps that runs on --image, above 0 and at most 1
    #[arg(long)]
    pub(crate) strength: Option<f64>,
    /// Last frame, for models that take one
    #[arg(long, value_name = "FILE")]
    pub(crate) last_image: Option<PathBuf>,
    /// Shift of the noise levels
    #[arg(long)]
    pub(crate) flow_shift: Option<f64>,
    /// Solver
    #[arg(long, value_name = "unipc|euler|dpmpp|wan-unipc|wan-dpmpp")]
    pub(crate) sampler: Option<String>,
    /// A strategy with its profile's defaults, or replay:FILE with a trace, an exported schedule or a compute mask
    #[arg(long, value_name = "NAME")]
    pub(crate) cache: Option<String>,
    /// Overrides a key of --cache, as TOML: threshold=0.1
    #[arg(long, value_name = "KEY=VALUE", requires = "cache")]
    pub(crate) set: Vec<String>,
    /// A built-in calibration profile, or the path of one
    #[arg(long, value_name = "NAME|FILE")]
    pub(crate) profile: Option<String>,
    /// Plans a run that computes so many steps; with --cache, by that strategy's threshold
    #[arg(long, value_name = "STEPS", group = "target")]
    pub(crate) budget: Option<usize>,
    /// Plans a run whose network is so many times faster than a dense run's
    #[arg(long, value_name = "TIMES", group = "target")]
    pub(crate) speedup: Option<f64>,
    /// Plans the fastest run that is expected to be so near to a dense run, in dB
    #[arg(long, value_name = "DB", group = "target")]
    pub(crate) psnr: Option<f64>,
    /// Uses a profile that was measured on something else
    #[arg(long)]
    pub(crate) force: bool,
    /// Compares the weights with those of the profile whatever their size; up to 1 GiB it is done anyway
    #[arg(long)]
    pub(crate) check_checkpoint: bool,
}

#[allow(clippy::struct_field_names, reason = "a dry run is what it is called")]
#[derive(Debug, ClapArgs)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) sampling: Sampling,
    /// What to show
    #[arg(long)]
    pub(crate) prompt: Option<String>,
    /// What not to show
    #[arg(long)]
    pub(crate) negative_prompt: Option<String>,
    /// Seed of the initial noise
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// How weights are kept in memory; arithmetic on a CPU is f32
    #[arg(long, value_enum, default_value_t)]
    pub(crate) dtype: Dtype,
    /// cpu, cuda:N or metal
    #[arg(long, default_value = "cpu")]
    pub(crate) device: String,
    /// Where the weights of an expert are while the other one runs
    #[arg(long, value_enum, default_value_t)]
    pub(crate) offload: Offload,
    /// Encode and decode in tiles of 256 pixels: bounded memory for large frames
    #[arg(long)]
    pub(crate) tile_vae: bool,
    /// FILE.mp4, .gif, .png or .webp, or a folder of PNG frames
    #[arg(long, value_name = "FILE|DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Writes every decision, one JSON line per pass
    #[arg(long, value_name = "FILE.jsonl")]
    pub(crate) trace: Option<PathBuf>,
    /// Stores the state of the run in this folder: after a kill the same command goes on from there
    #[arg(long, value_name = "DIR")]
    pub(crate) checkpoint: Option<PathBuf>,
    /// Stores it behind every so many steps
    #[arg(long, value_name = "STEPS", requires = "checkpoint", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) checkpoint_every: u64,
    /// Computes this part of the skipped passes as well, 0 to 1, and reports the true error of the reuse
    #[arg(long, value_name = "FRACTION")]
    pub(crate) audit: Option<f64>,
    /// Most drift: the audited errors added up, each in place of 1/FRACTION reuses
    #[arg(long, value_name = "ERROR")]
    pub(crate) drift_budget: Option<f64>,
    /// What is done when it is passed
    #[arg(long, value_enum)]
    pub(crate) on_drift: Option<OnDrift>,
    /// Prints the resolved configuration and runs nothing
    #[arg(long)]
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
pub(crate) enum Dtype {
    /// As stored; small models in f32
    #[default]
    Auto,
    F32,
    F16,
    Bf16,
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
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Calibrate {
    #[command(flatten)]
    pub(crate) sampling: Sampling,
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
    /// Rehearses each step with the residuals of so many steps before it, for planned schedules; 0 plans none. Each costs as much as a skipped step
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
    /// How weights are kept in memory; arithmetic on a CPU is f32
    #[arg(long, value_enum, default_value_t)]
    pub(crate) dtype: Dtype,
    /// cpu, cuda:N or metal
    #[arg(long, default_value = "cpu")]
    pub(crate) device: String,
    /// The profile; its raw rows go beside it, as FILE.safetensors
    #[arg(long, value_name = "FILE.toml", default_value = "profile.toml")]
    pub(crate) out: PathBuf,
    /// Draws the curve
    #[arg(long, value_name = "FILE.svg|.png")]
    pub(crate) plot: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Pareto {
    #[command(flatten)]
    pub(crate) sampling: Sampling,
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
    /// So many of the prompts, each with the first seed, are tried to find the thresholds; each holds a network
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) search: usize,
    /// Draws the curves
    #[arg(long, value_name = "FILE.svg|.png")]
    pub(crate) plot: Option<PathBuf>,
    /// Writes --profile with the measured PSNR and SSIM of its schedules
    #[arg(long, value_name = "FILE.toml")]
    pub(crate) save: Option<PathBuf>,
    /// How weights are kept in memory; arithmetic on a CPU is f32
    #[arg(long, value_enum, default_value_t)]
    pub(crate) dtype: Dtype,
    /// cpu, cuda:N or metal
    #[arg(long, default_value = "cpu")]
    pub(crate) device: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Objective {
    /// The one with the smaller sum of predicted errors
    #[default]
    Sum,
    /// The one with the smaller largest error, then the smaller sum
    Minimax,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct List {
    /// Prints a configuration of this strategy that parses
    #[arg(long, value_name = "STRATEGY")]
    pub(crate) example: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Inspect {
    /// A model folder, a component folder or a safetensors file; the embedded model without
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
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Profile {
    #[command(subcommand)]
    pub(crate) what: ProfileKind,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProfileKind {
    /// What two profiles say differently, and what caches would do differently for it; exit code 1 if they differ
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

#[derive(Debug, ClapArgs)]
pub(crate) struct Bench {
    #[command(subcommand)]
    pub(crate) what: BenchKind,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchKind {
    /// One transformer forward on random latents
    Forward(BenchForward),
    /// A pass without hooks, a skipped step and each metric against the plain loop
    Overhead {
        /// Timed repetitions
        #[arg(long, default_value_t = 20)]
        repeat: usize,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct BenchForward {
    /// A model folder, or the folder of a transformer alone; the embedded model without
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    /// Latent frames x height x width
    #[arg(long, value_name = "FxHxW", value_parser = latent, default_value = "5x16x16")]
    pub(crate) latent: [usize; 3],
    /// Text tokens
    #[arg(long, default_value_t = 16)]
    pub(crate) text: usize,
    /// Timed repetitions
    #[arg(long, default_value_t = 10)]
    pub(crate) repeat: usize,
}

fn size(text: &str) -> Result<[usize; 2], String> {
    numbers(text).ok_or_else(|| format!("{text:?} is not WIDTHxHEIGHT, such as 832x480"))
}

fn latent(text: &str) -> Result<[usize; 3], String> {
    numbers(text).ok_or_else(|| format!("{text:?} is not FRAMESxHEIGHTxWIDTH, such as 5x16x16"))
}

fn numbers<const N: usize>(text: &str) -> Option<[usize; N]> {
    let parts: Vec<usize> = text.split(['x', 'X']).map(str::parse).collect::<Result<_, _>>().ok()?;
    parts.try_into().ok()
}

//! One generation: what it is of, where it runs and what it writes.

use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};
use magcache_core::schemars;
use magcache_models::ranks::Layout;
use serde::{Deserialize, Serialize};

use super::{
    Placement, Prompt, Sampling, Writing,
    shared::{MACHINE, OUTPUT, SAMPLING},
};

/// What is heard with a video of someone who speaks.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SoundMode {
    /// Picture and sound in step
    #[default]
    InSync,
    /// The recording from its start, as in the official program: the picture leads by 187.5 ms
    Published,
    /// Nothing
    None,
}

const AUDIT: &str = "Audit of the cache";
const RANKS: &str = "Several ranks";

#[expect(clippy::struct_field_names, reason = "a dry run is what it is called")]
#[derive(Debug, ClapArgs)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) sampling: Sampling,
    #[command(flatten)]
    pub(crate) prompt: Prompt,
    /// File with one prompt per line: one run for each, with numbered names; empty lines and lines that start
    /// with # are skipped
    #[arg(long, help_heading = SAMPLING, value_name = "FILE", conflicts_with = "prompt")]
    pub(crate) prompts: Option<PathBuf>,
    /// Seed of the initial noise
    #[arg(long, help_heading = SAMPLING)]
    pub(crate) seed: Option<u64>,
    /// Several seeds: every prompt runs with each of them, with numbered names
    #[arg(long, help_heading = SAMPLING, value_name = "N,N", value_delimiter = ',', conflicts_with = "seed")]
    pub(crate) seeds: Vec<u64>,
    #[command(flatten)]
    pub(crate) placement: Placement,
    #[command(flatten)]
    pub(crate) ranks: RanksArgs,
    /// Encode and decode in tiles of 256 pixels, which bounds the memory for large frames
    #[arg(long, help_heading = MACHINE)]
    pub(crate) tile_vae: bool,
    /// FILE.mp4, .gif, .png or .webp, or a folder for PNG frames [default: an unused name]. The configuration
    /// is written next to it, as FILE.mp4.toml
    #[arg(long, help_heading = OUTPUT, value_name = "FILE|DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Frames per second of a video [default: that of the model]
    #[arg(long, help_heading = OUTPUT, value_name = "N")]
    pub(crate) fps: Option<f64>,
    /// What is heard with a video of someone who speaks [default: in-sync]
    #[arg(long, help_heading = OUTPUT, value_enum)]
    pub(crate) sound: Option<SoundMode>,
    #[command(flatten)]
    pub(crate) writing: Writing,
    /// Write every decision, one JSON line per pass
    #[arg(long, help_heading = OUTPUT, value_name = "FILE.jsonl")]
    pub(crate) trace: Option<PathBuf>,
    /// Store the state of the run in this folder: if the run is killed, the same command continues it
    #[arg(long, help_heading = OUTPUT, value_name = "DIR")]
    pub(crate) checkpoint: Option<PathBuf>,
    /// Store the state every this many steps
    #[arg(long, help_heading = OUTPUT, value_name = "STEPS", requires = "checkpoint", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) checkpoint_every: u64,
    /// Compute this fraction of the skipped passes as well, and report the true error of the reuse
    #[arg(long, help_heading = AUDIT, value_name = "FRACTION")]
    pub(crate) audit: Option<f64>,
    /// The largest allowed drift: the sum of the audited errors, divided by the fraction
    #[arg(long, help_heading = AUDIT, value_name = "ERROR")]
    pub(crate) drift_budget: Option<f64>,
    /// What to do when the drift exceeds the budget
    #[arg(long, help_heading = AUDIT, value_enum)]
    pub(crate) on_drift: Option<OnDrift>,
    /// Print the resolved configuration and run nothing
    #[arg(long, help_heading = OUTPUT)]
    pub(crate) dry_run: bool,
}

/// Several ranks on one generation.
#[derive(Clone, Debug, ClapArgs)]
#[command(next_help_heading = RANKS)]
pub(crate) struct RanksArgs {
    /// How ranks divide the work: ulysses=N tokens, cfg=2 guidance branches, or both. Under mpirun, or with
    /// --ranks or --gpus
    #[arg(long, value_name = "cfg=2,ulysses=4")]
    pub(crate) parallel: Option<Layout>,
    /// Run so many ranks as threads of this process, without a launcher
    #[arg(long, value_name = "N", conflicts_with = "gpus")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) ranks: Option<u64>,
    /// The same with a GPU for each, cuda:0 to cuda:N-1
    #[arg(long, value_name = "N", conflicts_with = "device")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) gpus: Option<u64>,
    /// Divide weights among the ranks that divide the tokens: each block is gathered for its run, one ahead
    #[arg(long)]
    pub(crate) shard: bool,
    /// Seconds that a rank waits for another one before it gives up
    #[arg(long, value_name = "SECONDS", default_value_t = 600.0)]
    pub(crate) patience: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnDrift {
    /// Report it
    Report,
    /// Allow half as many consecutive skips from then on
    Tighten,
    /// Compute every later pass
    Disable,
}

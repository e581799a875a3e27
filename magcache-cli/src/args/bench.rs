//! What is timed.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use magcache_models::checkpoint::Ops;

use super::sampling::numbers;

#[derive(Debug, ClapArgs)]
pub(crate) struct Bench {
    #[command(subcommand)]
    pub(crate) what: BenchKind,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchKind {
    /// One transformer forward on random latents
    Forward(BenchForward),
    /// Decoding random latents
    Vae(BenchVae),
    /// Encoding a prompt of random tokens
    Text(BenchText),
    /// Cached runs in turns with dense ones: speed-up, ceiling and the cost of a skipped pass
    Cache(BenchCache),
    /// A pass without hooks, a skipped step and each metric against the plain loop
    Overhead {
        /// Timed repetitions
        #[arg(long, default_value_t = 20)]
        repeat: usize,
    },
    /// What the machine can do at most: peak of multiply-adds, rate of reading memory
    Machine {
        /// Timed repetitions
        #[arg(long, default_value_t = 20)]
        repeat: usize,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct BenchModel {
    /// A model folder, the folder of one component, or the name of an embedded model; the default one without
    #[arg(long, value_name = "DIR|NAME")]
    pub(crate) model: Option<PathBuf>,
    /// As the whole program is told: see [`Command::compute_with`](super::Command::compute_with).
    #[arg(skip)]
    pub(crate) ops: Ops,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct BenchForward {
    #[command(flatten)]
    pub(crate) model: BenchModel,
    /// Latent frames x height x width; tokens of packed latents for Flux
    #[arg(long, value_name = "FxHxW", value_parser = latent, default_value = "5x16x16")]
    pub(crate) latent: [usize; 3],
    /// Text tokens
    #[arg(long, default_value_t = 16)]
    pub(crate) text: usize,
    /// Timed repetitions
    #[arg(long, default_value_t = 10)]
    pub(crate) repeat: usize,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct BenchVae {
    #[command(flatten)]
    pub(crate) model: BenchModel,
    /// Latent frames x height x width
    #[arg(long, value_name = "FxHxW", value_parser = latent, default_value = "2x16x16")]
    pub(crate) latent: [usize; 3],
    /// Timed repetitions
    #[arg(long, default_value_t = 10)]
    pub(crate) repeat: usize,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct BenchText {
    #[command(flatten)]
    pub(crate) model: BenchModel,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 128)]
    pub(crate) tokens: usize,
    /// Timed repetitions
    #[arg(long, default_value_t = 10)]
    pub(crate) repeat: usize,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct BenchCache {
    #[command(flatten)]
    pub(crate) model: BenchModel,
    /// A strategy with its profile's defaults
    #[arg(long, default_value = magcache_strategies::SHOWN[0])]
    pub(crate) cache: String,
    /// Sampling steps
    #[arg(long)]
    pub(crate) steps: Option<usize>,
    /// Timed runs of each
    #[arg(long, default_value_t = 5)]
    pub(crate) repeat: usize,
}

fn latent(text: &str) -> Result<[usize; 3], String> {
    numbers(text).ok_or_else(|| format!("{text:?} is not FRAMESxHEIGHTxWIDTH, such as 5x16x16"))
}

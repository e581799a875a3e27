//! What is timed.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// One forward pass of the transformer on random latents
    Forward(BenchForward),
    /// Decoding random latents
    Vae {
        #[command(flatten)]
        model: BenchModel,
        /// Latent frames x height x width
        #[arg(long, value_name = "FxHxW", value_parser = latent, default_value = "2x16x16")]
        latent: [usize; 3],
        /// Timed repetitions
        #[arg(long, default_value_t = 10)]
        repeat: usize,
    },
    /// Encoding a prompt of random tokens
    Text {
        #[command(flatten)]
        model: BenchModel,
        /// Tokens of the prompt
        #[arg(long, default_value_t = 128)]
        tokens: usize,
        /// Timed repetitions
        #[arg(long, default_value_t = 10)]
        repeat: usize,
    },
    /// Cached and dense runs in turns: speed-up, ceiling and the cost of a skipped pass
    Cache(BenchCache),
    /// The plain loop over blocks compared with passes through hooks, skipped steps and each metric
    Overhead {
        /// Timed repetitions
        #[arg(long, default_value_t = 20)]
        repeat: usize,
    },
    /// The machine's limits: peak rate of multiply-adds and of reading memory
    Machine {
        /// Timed repetitions
        #[arg(long, default_value_t = 20)]
        repeat: usize,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct BenchModel {
    /// Model folder, folder of one component, or name of an embedded model; the default model if left out
    #[arg(long, value_name = "DIR|NAME")]
    pub(crate) model: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct BenchForward {
    #[command(flatten)]
    pub(crate) model: BenchModel,
    /// Latent frames x height x width; for Flux, tokens of packed latents; for Z-Image, latents of a picture
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
pub(crate) struct BenchCache {
    #[command(flatten)]
    pub(crate) model: BenchModel,
    /// A strategy with the defaults of its profile
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
    let parts = text.split(['x', 'X']).map(str::parse).collect::<Result<Vec<usize>, _>>();
    let sizes = parts.ok().and_then(|parts| parts.try_into().ok());
    sizes.ok_or_else(|| format!("{text:?} is not FRAMESxHEIGHTxWIDTH, such as 5x16x16"))
}

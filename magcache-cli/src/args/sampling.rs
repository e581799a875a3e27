//! What every command that plans a run understands.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use magcache_models::pipeline::{self, Embedded, SamplingOptions};

/// Headings of the help.
const MODEL: &str = "Model";
const CACHE: &str = "Cache";

/// What every command that plans a run understands.
#[derive(Debug, Default, ClapArgs)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct Sampling {
    /// A model folder, or the name of an embedded model; for a schedule, of any model of `list`
    #[arg(long, help_heading = MODEL, value_name = "DIR|NAME")]
    pub(crate) model: Option<String>,
    /// Settings as TOML; flags override it
    #[arg(long, help_heading = MODEL, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) options: SamplingOptions,
    /// A strategy with its profile's defaults, replay:FILE with a trace, an exported schedule or a compute
    /// mask, or none
    #[arg(long, help_heading = CACHE, value_name = "NAME")]
    pub(crate) cache: Option<String>,
    /// Overrides a key of --cache, as TOML: threshold=0.1
    #[arg(long, help_heading = CACHE, value_name = "KEY=VALUE", requires = "cache")]
    pub(crate) set: Vec<String>,
    /// A built-in calibration profile, or the path of one
    #[arg(long, help_heading = CACHE, value_name = "NAME|FILE")]
    pub(crate) profile: Option<String>,
    /// Plans a run that computes so many steps; with --cache, by that strategy's threshold
    #[arg(long, help_heading = CACHE, value_name = "STEPS", group = "target")]
    pub(crate) budget: Option<usize>,
    /// Plans a run whose network is so many times faster than a dense run's
    #[arg(long, help_heading = CACHE, value_name = "TIMES", group = "target")]
    pub(crate) speedup: Option<f64>,
    /// Plans the fastest run that is expected to be so near to a dense run, in dB
    #[arg(long, help_heading = CACHE, value_name = "DB", group = "target")]
    pub(crate) psnr: Option<f64>,
    /// Uses a profile that was measured on something else; files are replaced with --overwrite
    #[arg(long, help_heading = CACHE)]
    pub(crate) force: bool,
    /// Compares the weights with those of the profile whatever their size; up to 1 GiB it is done anyway
    #[arg(long, help_heading = CACHE)]
    pub(crate) check_checkpoint: bool,
}

/// What the models inside the program understand.
pub(super) fn prompt_help() -> String {
    let of = |model: &Embedded| format!("\n  {}: {}", model.name, model.prompts);
    let models: String = pipeline::embedded().into_iter().map(of).collect();
    format!("What to show; - reads it from standard input. The embedded models know these words:{models}")
}

pub(super) fn numbers<const N: usize>(text: &str) -> Option<[usize; N]> {
    let parts: Vec<usize> = text.split(['x', 'X']).map(str::parse).collect::<Result<_, _>>().ok()?;
    parts.try_into().ok()
}

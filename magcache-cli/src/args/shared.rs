//! Options that several commands share.

use std::path::PathBuf;

use super::{Files, Loras};
use clap::{Args as ClapArgs, ValueEnum};
use magcache_core::config::byte_size;
use magcache_models::pipeline::{self, Embedded, Offload, SamplingOptions};

/// Headings of the help.
const MODEL: &str = "Model";
pub(super) const SAMPLING: &str = "Sampling";
const CACHE: &str = "Cache";
pub(super) const MACHINE: &str = "Machine";
const QUALITY: &str = "Quality";
pub(super) const OUTPUT: &str = "Output";

/// The options of every command that plans a run.
#[derive(Debug, Default, ClapArgs)]
#[command(next_help_heading = SAMPLING)]
pub(crate) struct Sampling {
    /// Model folder, single file, or name of an embedded model; `schedule` takes any model of `list`
    #[arg(long, help_heading = MODEL, value_name = "DIR|FILE|NAME")]
    pub(crate) model: Option<String>,
    /// Read settings from a TOML file; flags override them
    #[arg(long, help_heading = MODEL, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) files: Files,
    #[command(flatten)]
    pub(crate) loras: Loras,
    #[command(flatten)]
    pub(crate) options: SamplingOptions,
    /// A strategy with the defaults of its profile; replay:FILE for a trace, an exported schedule or a
    /// compute mask; or none
    #[arg(long, help_heading = CACHE, value_name = "NAME")]
    pub(crate) cache: Option<String>,
    /// Override a key of --cache with a TOML value: threshold=0.1
    #[arg(long, help_heading = CACHE, value_name = "KEY=VALUE", requires = "cache")]
    pub(crate) set: Vec<String>,
    /// Built-in calibration profile, or path of a profile
    #[arg(long, help_heading = CACHE, value_name = "NAME|FILE")]
    pub(crate) profile: Option<String>,
    /// Plan a run that computes this many steps; with --cache, by tuning that strategy's threshold
    #[arg(long, help_heading = CACHE, value_name = "STEPS", group = "target")]
    pub(crate) budget: Option<usize>,
    /// Plan a run whose network is this many times as fast as in a dense run
    #[arg(long, help_heading = CACHE, value_name = "TIMES", group = "target")]
    pub(crate) speedup: Option<f64>,
    /// Plan the fastest run with at least this expected PSNR against a dense run, in dB
    #[arg(long, help_heading = CACHE, value_name = "DB", group = "target")]
    pub(crate) psnr: Option<f64>,
    /// Use a profile even if it was measured on something else; to replace files, use --overwrite
    #[arg(long, help_heading = CACHE)]
    pub(crate) force: bool,
    /// Compare the weights with those of the profile even if they are larger than 1 GiB
    #[arg(long, help_heading = CACHE)]
    pub(crate) check_checkpoint: bool,
}

/// The prompts of a single generation.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = SAMPLING)]
pub(crate) struct Prompt {
    /// What to show; the embedded models know few words, see --help
    #[arg(long, value_name = "TEXT", long_help = prompt_help())]
    pub(crate) prompt: Option<String>,
    /// What not to show
    #[arg(long, value_name = "TEXT")]
    pub(crate) negative_prompt: Option<String>,
}

/// Where a network is kept and computed.
#[derive(Clone, Debug, ClapArgs)]
#[command(next_help_heading = MACHINE)]
pub(crate) struct Placement {
    /// How weights are stored in memory; a CPU always computes in f32
    #[arg(long, value_enum, default_value_t)]
    pub(crate) dtype: Dtype,
    /// cpu or cuda:N
    #[arg(long, default_value = "cpu")]
    pub(crate) device: String,
    /// Where to keep weights that are not needed
    #[arg(long, value_enum, default_value_t)]
    pub(crate) offload: Offload,
    /// Refuse a run that needs more than this: a size, such as 24GiB, or unchecked [default: what the device
    /// has free]
    #[arg(long, value_name = "SIZE|unchecked", value_parser = memory)]
    pub(crate) memory: Option<MemoryLimit>,
}

/// The memory that a run may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemoryLimit {
    Bytes(u64),
    /// As much as it takes: it is not compared with anything.
    Unchecked,
}

fn memory(text: &str) -> Result<MemoryLimit, String> {
    if text == "unchecked" {
        return Ok(MemoryLimit::Unchecked);
    }
    let bytes = byte_size(text).map(|bytes| MemoryLimit::Bytes(bytes as u64));
    bytes.ok_or_else(|| format!("{text:?} is not a size, such as 24GiB or 500MB, nor unchecked"))
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dtype {
    /// As in the checkpoint; small models in f32
    #[default]
    Auto,
    /// As in the checkpoint
    Keep,
    F32,
    F16,
    Bf16,
}

/// What is measured of pictures beside what always is.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = QUALITY)]
pub(crate) struct Metrics {
    /// Measure this too, beside PSNR, SSIM and SSIMULACRA2
    #[arg(long, value_enum, value_name = "NAME")]
    pub(crate) metric: Option<Metric>,
    /// Weights for --metric lpips: the `state_dict()` of Python's lpips.LPIPS(net='alex'), 'vgg' or
    /// 'squeeze', as .pth or .safetensors
    #[arg(long, value_name = "FILE", requires = "metric")]
    pub(crate) lpips_weights: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Metric {
    /// Distance of a network's features: 0 if equal; needs --lpips-weights
    Lpips,
}

/// What may be written over.
#[derive(Clone, Copy, Debug, Default, ClapArgs)]
#[command(next_help_heading = OUTPUT)]
pub(crate) struct Writing {
    /// Replace existing files; without it, the command refuses to start
    #[arg(long)]
    pub(crate) overwrite: bool,
}

/// The words that the models inside the program understand.
pub(super) fn prompt_help() -> String {
    let of = |model: &Embedded| format!("\n  {}: {}", model.name, model.prompts);
    let models: String = pipeline::embedded().into_iter().map(of).collect();
    format!("What to show; - reads it from standard input. The embedded models know these words:{models}")
}

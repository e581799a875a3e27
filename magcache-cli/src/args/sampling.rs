//! What every command that plans a run understands.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use magcache_models::pipeline::{self, Embedded};

/// Headings of the help.
const MODEL: &str = "Model";
const IMAGES: &str = "Given images";
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
    #[arg(long, help_heading = IMAGES, value_name = "FILE")]
    pub(crate) image: Option<PathBuf>,
    /// Image to image: the part of the steps that runs on --image, above 0 and at most 1
    #[arg(long, help_heading = IMAGES)]
    pub(crate) strength: Option<f64>,
    /// Last frame, for models that take one
    #[arg(long, help_heading = IMAGES, value_name = "FILE")]
    pub(crate) last_image: Option<PathBuf>,
    /// Shift of the noise levels
    #[arg(long)]
    pub(crate) flow_shift: Option<f64>,
    /// Solver
    #[arg(long, value_name = "unipc|euler|dpmpp|wan-unipc|wan-dpmpp")]
    pub(crate) sampler: Option<String>,
    /// A strategy with its profile's defaults, replay:FILE with a trace, an exported schedule or a compute mask, or none
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

fn size(text: &str) -> Result<[usize; 2], String> {
    numbers(text).ok_or_else(|| format!("{text:?} is not WIDTHxHEIGHT, such as 832x480"))
}

pub(super) fn numbers<const N: usize>(text: &str) -> Option<[usize; N]> {
    let parts: Vec<usize> = text.split(['x', 'X']).map(str::parse).collect::<Result<_, _>>().ok()?;
    parts.try_into().ok()
}

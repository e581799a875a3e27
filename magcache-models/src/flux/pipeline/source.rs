//! Where the parts of a checkpoint are.

use serde::Deserialize;

use crate::{
    checkpoint::{CheckpointError, Folder, WeightDtype, Weights},
    flux::{FluxConfig, FluxConfigError, vae::FluxVaeConfig},
    flux2::Flux2Config,
    pipeline::LoadOptions,
    sampler::SchedulerConfig,
};

/// The file that names a diffusers pipeline's class.
const INDEX: &str = "model_index.json";

/// Classes of `model_index.json` for FLUX.1, as diffusers writes them.
const FLUX1: [&str; 3] = ["FluxPipeline", "FluxImg2ImgPipeline", KONTEXT];
const KONTEXT: &str = "FluxKontextPipeline";

/// Every class that is opened here.
pub(super) const CLASSES: &[&str] =
    &["Flux2KleinPipeline", "FluxImg2ImgPipeline", "FluxKontextPipeline", "FluxPipeline"];

#[derive(Deserialize)]
struct Index {
    #[serde(rename = "_class_name")]
    class_name: String,
    /// Of FLUX.2 klein.
    #[serde(default)]
    is_distilled: bool,
}

/// Sizes of the network.
#[derive(Clone, Debug)]
pub(super) enum Network {
    Flux1 { config: FluxConfig, kontext: bool },
    Flux2 { config: Flux2Config, distilled: bool },
}

/// A checkpoint folder in diffusers' layout.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) folder: Folder,
    pub(super) network: Network,
    pub(super) vae: FluxVaeConfig,
    pub(super) scheduler: SchedulerConfig,
}

impl Source {
    /// Reads the configurations of a folder.
    pub(super) fn open(folder: Folder) -> Result<Self, CheckpointError> {
        let index: Index = folder.read_json(INDEX)?;
        let transformer = folder.sub("transformer");
        let network = if FLUX1.contains(&index.class_name.as_str()) {
            let config = config(&transformer, FluxConfig::from_json)?;
            Network::Flux1 { config, kontext: index.class_name == KONTEXT }
        } else {
            let config = config(&transformer, Flux2Config::from_json)?;
            Network::Flux2 { config, distilled: index.is_distilled }
        };
        let vae = FluxVaeConfig::read(&folder.sub("vae"))?;
        let source = Self { scheduler: scheduler(&folder.sub("scheduler"))?, folder, network, vae };
        source.check()?;
        Ok(source)
    }

    /// The tensors of the network, by the names of diffusers.
    pub(super) fn transformer(&self, options: &LoadOptions) -> Result<Weights, CheckpointError> {
        Weights::open(&self.folder.sub("transformer"), &options.device, options.dtype)
    }

    /// The tensors of the autoencoder, by the names of diffusers.
    pub(super) fn vae(&self, options: &LoadOptions) -> Result<Weights, CheckpointError> {
        Weights::open(&self.folder.sub("vae"), &options.device, WeightDtype::Auto)
    }

    /// Whether network and autoencoder belong together.
    fn check(&self) -> Result<(), CheckpointError> {
        let in_channels = match &self.network {
            Network::Flux1 { config, .. } => config.in_channels,
            Network::Flux2 { config, .. } => config.in_channels,
        };
        let tokens = 4 * self.vae.latent_channels;
        if in_channels == tokens {
            return Ok(());
        }
        let reason = format!(
            "in_channels is {in_channels}, the tokens of the autoencoder have {tokens}: models that take a mask or a \
             control image beside the latents (Fill, Control) are not part of this build"
        );
        Err(CheckpointError::BadConfig {
            file: self.folder.sub("transformer").describe_file("config.json"),
            reason,
        })
    }
}

fn config<C>(
    folder: &Folder,
    parse: impl Fn(&str) -> Result<C, FluxConfigError>,
) -> Result<C, CheckpointError> {
    const FILE: &str = "config.json";
    let bad = |error: FluxConfigError| CheckpointError::BadConfig {
        file: folder.describe_file(FILE),
        reason: error.to_string(),
    };
    parse(&folder.read_to_string(FILE)?).map_err(bad)
}

fn scheduler(folder: &Folder) -> Result<SchedulerConfig, CheckpointError> {
    const FILE: &str = "scheduler_config.json";
    let text = folder.read_to_string(FILE)?;
    SchedulerConfig::from_json(&text).map_err(|error| CheckpointError::BadConfig {
        file: folder.describe_file(FILE),
        reason: error.to_string(),
    })
}

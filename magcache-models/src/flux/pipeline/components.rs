//! Where the parts of a checkpoint are.

use candle_core::Device;
use magcache_core::hint::Hint;
use serde::Deserialize;

use crate::{
    autoencoder::ImageVaeConfig,
    checkpoint::{
        AdapterReport, CheckpointError, ConfigError, Folder, WeightDtype, Weights, config::read_file,
    },
    flux::{
        Flux2Config, FluxConfig, flux1, flux2,
        native::{self, Generation},
    },
    pipeline::{
        GivenFiles, LoadOptions, adapters_of,
        still::{Place, StillVae, find},
    },
    recognise::Role,
    sampler::{SamplerKind, SchedulerConfig, Shift},
};

/// The file that names a diffusers pipeline's class.
const INDEX: &str = "model_index.json";

/// Every class that can be opened here, or is refused with a reason.
pub(super) const CLASSES: &[&str] =
    &["Flux2KleinPipeline", "Flux2Pipeline", "FluxImg2ImgPipeline", KONTEXT, "FluxPipeline"];
const KONTEXT: &str = "FluxKontextPipeline";

/// How a folder without an index is recognised, for messages.
pub(super) const LOOKED_FOR: &str =
    "a single file of a Flux transformer (flux1-dev.safetensors) beside the folders of its text encoders";

#[derive(Deserialize)]
struct Index {
    #[serde(rename = "_class_name")]
    class_name: String,
    /// Whether it is a distilled model; for FLUX.2 klein.
    #[serde(default)]
    is_distilled: bool,
}

/// Sizes of the network.
#[derive(Clone, Debug)]
pub(super) enum Network {
    Flux1 { config: FluxConfig, kontext: bool },
    Flux2 { config: Flux2Config, distilled: bool },
}

/// A checkpoint folder in diffusers' layout; transformer or autoencoder may be native single files instead of
/// folders.
#[derive(Clone, Debug)]
pub(super) struct Components {
    pub(super) folder: Folder,
    pub(super) network: Network,
    pub(super) vae: StillVae,
    pub(super) scheduler: SchedulerConfig,
    transformer_at: Place,
}

/// Whether a folder without an index contains the single file of a Flux transformer.
pub(super) fn detects(folder: &Folder) -> bool {
    transformer_file(folder).is_some()
}

impl Components {
    /// Reads the configurations of a folder, or infers the sizes from the tensors of a single file.
    pub(super) fn open(folder: Folder, files: &GivenFiles) -> Result<Self, CheckpointError> {
        let index: Option<Index> = folder.exists(INDEX).then(|| folder.read_json(INDEX)).transpose()?;
        let (network, transformer_at) = match files.part(Role::Transformer)? {
            Some(file) => network_in(&file.folder, file.file, index.as_ref())?,
            None => network(&folder, index.as_ref())?,
        };
        let vae = StillVae::of(&folder, files, published_vae(&network))?;
        let scheduler = scheduler(&folder.sub("scheduler"), &network)?;
        let source = Self { folder, network, vae, scheduler, transformer_at };
        source.check()?;
        Ok(source)
    }

    /// The tensors of the network, by the names of diffusers.
    pub(super) fn transformer(&self, options: &LoadOptions) -> Result<Weights, CheckpointError> {
        let (device, dtype) = (&options.device, options.network_dtype());
        match (&self.transformer_at, &self.network) {
            (Place::Folder(folder), _) => Weights::open(folder, device, dtype),
            (Place::File(folder, file), Network::Flux1 { .. }) => {
                Ok(flux1::native::open(folder, file, device, dtype)?.1)
            }
            (Place::File(folder, file), Network::Flux2 { .. }) => {
                Ok(flux2::native::open(folder, file, device, dtype)?.1)
            }
        }
    }

    /// The same as the adapters of the options change them.
    pub(super) fn adapted(
        &self,
        options: &LoadOptions,
    ) -> Result<(Weights, Vec<AdapterReport>), CheckpointError> {
        let names = match &self.network {
            Network::Flux1 { .. } => flux1::native::ADAPTER,
            Network::Flux2 { .. } => flux2::native::ADAPTER,
        };
        self.transformer(options)?.adapted(&adapters_of(&options.adapters, 0, 1), &names, 0)
    }

    /// Channels of the hidden states, and inside the feed-forward layers.
    pub(super) fn widths(&self) -> [usize; 2] {
        match &self.network {
            Network::Flux1 { config, .. } => [config.inner_dim(), 4 * config.inner_dim()],
            // Twice as many before the gate.
            Network::Flux2 { config, .. } => {
                let width = config.inner_dim();
                [width, (2.0 * config.mlp_ratio * width as f64) as usize]
            }
        }
    }

    /// Checks that network and autoencoder belong together.
    fn check(&self) -> Result<(), CheckpointError> {
        let in_channels = match &self.network {
            Network::Flux1 { config, .. } => config.in_channels,
            Network::Flux2 { config, .. } => config.in_channels,
        };
        let tokens = 4 * self.vae.config.latent_channels;
        if in_channels == tokens {
            return Ok(());
        }
        let file = self.transformer_at.describe();
        let reason = format!(
            "in_channels is {in_channels}, the tokens of the autoencoder have {tokens}: models that take a mask or a \
             control image beside the latents (Fill, Control) are not part of this build"
        );
        Err(CheckpointError::BadConfig { file, reason })
    }
}

fn network(folder: &Folder, index: Option<&Index>) -> Result<(Network, Place), CheckpointError> {
    let transformer = folder.sub("transformer");
    let kontext = index.is_some_and(|index| index.class_name == KONTEXT);
    if let (Some(index), true) =
        (index, transformer.exists("config.json") || transformer_file(folder).is_none())
    {
        let network = if index.class_name.starts_with("Flux2") {
            let config = config(&transformer, Flux2Config::from_json)?;
            Network::Flux2 { config, distilled: index.is_distilled }
        } else {
            Network::Flux1 { config: config(&transformer, FluxConfig::from_json)?, kontext }
        };
        return Ok((network, Place::Folder(transformer)));
    }
    match transformer_file(folder) {
        Some((file, _)) => network_in(folder, file, index),
        None => Err(CheckpointError::MissingFile {
            file: folder.describe_file(INDEX),
            expected: format!("that file, or {LOOKED_FOR}"),
        }),
    }
}

/// The network in a single file.
fn network_in(
    folder: &Folder,
    file: String,
    index: Option<&Index>,
) -> Result<(Network, Place), CheckpointError> {
    let (device, dtype) = (Device::Cpu, WeightDtype::Keep);
    let kontext = index.is_some_and(|index| index.class_name == KONTEXT);
    let names = Weights::open_files(folder, &[&file], &device, dtype)?;
    let generation = native::generation(names.names()).unwrap_or(Generation::Flux1);
    let named = |word: &str| file.to_ascii_lowercase().contains(word);
    let network = match generation {
        Generation::Flux1 => {
            let (config, _) = flux1::native::open(folder, &file, &device, dtype)?;
            Network::Flux1 { config, kontext: kontext || named("kontext") }
        }
        Generation::Flux2 => {
            let (config, _) = flux2::native::open(folder, &file, &device, dtype)?;
            let distilled = index.map_or(!named("base"), |index| index.is_distilled);
            Network::Flux2 { config, distilled }
        }
    };
    Ok((network, Place::File(folder.clone(), file)))
}

/// What no file of an autoencoder says.
fn published_vae(network: &Network) -> ImageVaeConfig {
    match network {
        Network::Flux1 { .. } => ImageVaeConfig::flux1(),
        Network::Flux2 { .. } => ImageVaeConfig::flux2(),
    }
}

/// The first file in `folder` itself whose tensors are those of a native transformer.
fn transformer_file(folder: &Folder) -> Option<(String, Generation)> {
    find(folder, |weights| native::generation(weights.names()))
}

fn config<C>(folder: &Folder, parse: impl Fn(&str) -> Result<C, ConfigError>) -> Result<C, CheckpointError> {
    read_file(folder, "config.json", parse, ConfigError::hint)
}

/// The scheduler settings of the folder, or those that a model of single files is published with.
fn scheduler(folder: &Folder, network: &Network) -> Result<SchedulerConfig, CheckpointError> {
    const FILE: &str = "scheduler_config.json";
    if !folder.exists(FILE) {
        let schnell = matches!(network, Network::Flux1 { config, .. } if !config.guidance_embeds);
        let shift = if schnell { Shift::Static(1.0) } else { Shift::Dynamic { exponential: true } };
        return Ok(SchedulerConfig { shift, ..SchedulerConfig::new(SamplerKind::Euler, 1.0) });
    }
    read_file(folder, FILE, SchedulerConfig::from_json, Hint::hint)
}

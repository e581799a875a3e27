//! Where the parts of a checkpoint are.

use candle_core::Device;
use magcache_core::{hint::Hint, inventory};
use serde::Deserialize;

use super::{Edition, QwenImageConfig};
use crate::{
    autoencoder::{
        VideoVae, VideoVaeConfig,
        video::{described, vae},
    },
    checkpoint::{
        AdapterNames, AdapterPart, AdapterReport, CheckpointError, ConfigError, Folder, WeightDtype, Weights,
        config::read_file,
    },
    pipeline::{GivenFiles, LoadOptions, PartFile, adapters_of},
    recognise::{self, LayoutTable, Role},
    sampler::{SamplerKind, SchedulerConfig, Shift},
    text::{PromptTokenizer, Qwen25VlConfig, TokenizerKind, open_language_model},
};

/// The file that names a diffusers pipeline's class.
const INDEX: &str = "model_index.json";

/// The file with the sizes of a part.
const CONFIG: &str = "config.json";

/// Every class that can be opened here.
pub(super) const CLASSES: &[&str] =
    &["QwenImageEditPipeline", "QwenImageEditPlusPipeline", "QwenImageImg2ImgPipeline", "QwenImagePipeline"];

inventory::submit! { LayoutTable(include_str!("layouts.json")) }

/// The layout of a single file with a transformer.
pub(super) const LAYOUT: &str = "qwen_image";

/// A part: its layouts in single files, what it is, and where it is found if it is missing.
struct Sought {
    layouts: &'static [&'static str],
    is: &'static str,
    found: &'static str,
}

const TRANSFORMER: Sought = Sought {
    layouts: &[LAYOUT],
    is: "the transformer of Qwen-Image",
    found: "the transformer in the folder that diffusers has it in, or --transformer FILE: qwen_image_bf16.safetensors",
};
const TEXT_ENCODER: Sought = Sought {
    layouts: &["qwen25vl", "qwen25vl_gguf"],
    is: "the Qwen2.5-VL text encoder that Qwen-Image reads",
    found: "the text encoder in the folder that diffusers has it in, or --text-encoder FILE: \
            qwen_2.5_vl_7b_fp8_scaled.safetensors",
};
const VAE: Sought = Sought {
    layouts: &["wan_vae21"],
    is: "the autoencoder of Qwen-Image, whose layout is that of Wan2.1",
    found: "the autoencoder in the folder that diffusers has it in, or --vae FILE: qwen_image_vae.safetensors",
};

/// The names that adapters use: those of the folder.
const ADAPTER: AdapterNames =
    AdapterNames { family: "Qwen-Image", tables: &[], part: AdapterPart::Network, encoders: &[] };

#[derive(Deserialize)]
struct Index {
    #[serde(rename = "_class_name")]
    class_name: String,
}

/// The tensors of a part: a diffusers folder, or a single file.
#[derive(Clone, Debug)]
enum Place {
    Folder(Folder),
    File(PartFile),
}

impl Place {
    fn weights(&self, role: Role, device: &Device, dtype: WeightDtype) -> Result<Weights, CheckpointError> {
        match self {
            Self::Folder(folder) => Weights::open(folder, device, dtype),
            Self::File(at) if role == Role::TextEncoder => {
                open_language_model(&at.folder, &at.file, device, dtype)
            }
            Self::File(at) => recognise::open(&at.folder, &at.file, role, device, dtype),
        }
    }
}

/// A checkpoint folder in diffusers' layout, of which each network may be a single file instead.
#[derive(Clone, Debug)]
pub(super) struct Components {
    pub(super) folder: Folder,
    pub(super) edition: Edition,
    pub(super) config: QwenImageConfig,
    pub(super) text: Qwen25VlConfig,
    pub(super) vae: VideoVaeConfig,
    pub(super) scheduler: SchedulerConfig,
    tokenizer: Folder,
    transformer_at: Place,
    text_at: Place,
    vae_at: Place,
}

impl Components {
    /// Reads the configurations of a folder, or infers the sizes from the tensors of single files.
    pub(super) fn open(folder: Folder, files: &GivenFiles) -> Result<Self, CheckpointError> {
        let index: Option<Index> = folder.exists(INDEX).then(|| folder.read_json(INDEX)).transpose()?;
        let place = |role: Role, name: &str, sought: &Sought| {
            if let Some(file) = files.part(role)? {
                file.require(sought.layouts, sought.is)?;
                return Ok(Place::File(file));
            }
            let own = folder.sub(name);
            if own.exists(CONFIG) {
                return Ok(Place::Folder(own));
            }
            let (file, expected) = (own.describe_file(CONFIG), sought.found.to_owned());
            Err(CheckpointError::MissingFile { file, expected })
        };
        let transformer_at = place(Role::Transformer, "transformer", &TRANSFORMER)?;
        let text_at = place(Role::TextEncoder, "text_encoder", &TEXT_ENCODER)?;
        let vae_at = place(Role::Vae, "vae", &VAE)?;
        let edition = edition(index.as_ref(), &transformer_at);
        let (device, dtype) = (Device::Cpu, WeightDtype::Keep);
        let config = match &transformer_at {
            Place::Folder(own) => read_file(own, CONFIG, QwenImageConfig::from_json, ConfigError::hint)?,
            Place::File(at) => {
                let weights = transformer_at.weights(Role::Transformer, &device, dtype)?;
                QwenImageConfig::of_weights(&weights, at.file.contains("2511"))?
            }
        };
        let text = match &text_at {
            Place::Folder(own) => Qwen25VlConfig::read(own)?,
            Place::File(_) => {
                Qwen25VlConfig::of_weights(&text_at.weights(Role::TextEncoder, &device, dtype)?)?
            }
        };
        let vae = match &vae_at {
            Place::Folder(own) => VideoVaeConfig::read(own)?,
            Place::File(_) => described(&vae_at.weights(Role::Vae, &device, dtype)?)?.0,
        };
        let scheduler = scheduler(&folder.sub("scheduler"))?;
        let tokenizer = match files.tokenizer(TokenizerKind::Bpe)? {
            Some(given) => given,
            None => folder.sub("tokenizer"),
        };
        let source = Self {
            folder,
            edition,
            config,
            text,
            vae,
            scheduler,
            tokenizer,
            transformer_at,
            text_at,
            vae_at,
        };
        source.check()?;
        Ok(source)
    }

    /// The tensors of the network.
    pub(super) fn transformer(
        &self,
        device: &Device,
        dtype: WeightDtype,
    ) -> Result<Weights, CheckpointError> {
        self.transformer_at.weights(Role::Transformer, device, dtype)
    }

    /// The same as the adapters of the options change them.
    pub(super) fn adapted(
        &self,
        options: &LoadOptions,
    ) -> Result<(Weights, Vec<AdapterReport>), CheckpointError> {
        let weights = self.transformer(&options.device, options.network_dtype())?;
        weights.adapted(&adapters_of(&options.adapters, 0, 1), &ADAPTER, 0)
    }

    /// The tensors of the text encoder.
    pub(super) fn text_encoder(
        &self,
        device: &Device,
        dtype: WeightDtype,
    ) -> Result<Weights, CheckpointError> {
        self.text_at.weights(Role::TextEncoder, device, dtype)
    }

    /// The folder with the tokenizer's files.
    pub(super) fn tokenizer(&self) -> Result<&Folder, CheckpointError> {
        if PromptTokenizer::is_in(&self.tokenizer) {
            return Ok(&self.tokenizer);
        }
        let hint = format!(
            "looked in {}; no file of weights has it: --tokenizer Qwen/Qwen-Image, or a folder with its tokenizer.json",
            self.tokenizer.describe()
        );
        Err(CheckpointError::MissingPart { part: "Qwen2 tokenizer", hint })
    }

    /// The tensors of the autoencoder, by the names of diffusers.
    pub(super) fn vae_weights(&self, device: &Device) -> Result<Weights, CheckpointError> {
        let weights = self.vae_at.weights(Role::Vae, device, WeightDtype::Keep)?;
        match &self.vae_at {
            Place::Folder(_) => Ok(weights),
            Place::File(_) => {
                let (_, names) = described(&weights)?;
                weights.mapped(|name| vae(names, name))
            }
        }
    }

    /// The autoencoder.
    pub(super) fn autoencoder(&self, device: &Device) -> Result<VideoVae, CheckpointError> {
        VideoVae::load(&self.vae_weights(device)?, &self.vae)
    }

    /// Checks that the networks belong together.
    fn check(&self) -> Result<(), CheckpointError> {
        let pairs = [
            (
                "in_channels",
                self.config.in_channels,
                "the tokens of the autoencoder have",
                4 * self.vae.z_dim,
            ),
            (
                "joint_attention_dim",
                self.config.joint_attention_dim,
                "the text encoder has",
                self.text.hidden_size,
            ),
        ];
        match pairs.into_iter().find(|(_, own, _, other)| own != other) {
            None => Ok(()),
            Some((key, own, what, other)) => {
                let file = match &self.transformer_at {
                    Place::Folder(folder) => folder.describe_file(CONFIG),
                    Place::File(at) => at.place(),
                };
                Err(CheckpointError::BadConfig { file, reason: format!("{key} is {own}, {what} {other}") })
            }
        }
    }
}

/// The edition that the index names, or else the name of the transformer's file.
fn edition(index: Option<&Index>, transformer: &Place) -> Edition {
    let class = index.map_or("", |index| index.class_name.as_str());
    let file = match transformer {
        Place::File(at) => at.file.to_ascii_lowercase(),
        Place::Folder(_) => String::new(),
    };
    let plus = ["2509", "2511"].iter().any(|version| file.contains(version));
    match class {
        "QwenImageEditPlusPipeline" => Edition::EditPlus,
        "QwenImageEditPipeline" => Edition::Edit,
        "" if file.contains("edit") && plus => Edition::EditPlus,
        "" if file.contains("edit") => Edition::Edit,
        _ => Edition::Image,
    }
}

/// The scheduler settings of the folder, or those that the models are published with.
fn scheduler(folder: &Folder) -> Result<SchedulerConfig, CheckpointError> {
    const FILE: &str = "scheduler_config.json";
    if folder.exists(FILE) {
        return read_file(folder, FILE, SchedulerConfig::from_json, Hint::hint);
    }
    Ok(SchedulerConfig {
        shift: Shift::Dynamic { exponential: true },
        max_image_seq_len: 8192,
        max_shift: 0.9,
        shift_terminal: Some(0.02),
        ..SchedulerConfig::new(SamplerKind::Euler, 1.0)
    })
}

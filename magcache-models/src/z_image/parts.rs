//! Where the parts of a checkpoint are.

use candle_core::Device;
use magcache_core::hint::Hint;

use super::{ZImageConfig, ZImageTextEncoder, native, text::THINKING};
use crate::{
    autoencoder::ImageVaeConfig,
    checkpoint::{
        AdapterReport, CheckpointError, ConfigError, Folder, WeightDtype, Weights, config::read_file,
    },
    pipeline::{
        GivenFiles, LoadOptions, adapters_of,
        still::{Place, StillVae},
    },
    recognise::Role,
    sampler::{SamplerKind, SchedulerConfig, Shift},
    text::{PromptTokenizer, Qwen3Config, Qwen3Tokenizer, TokenizerKind, open_language_model},
};

/// The shifts of the published schedules, of Turbo and of the base model.
const SHIFTS: [f64; 2] = [3.0, 6.0];

/// Where what is missing is usually found.
const ENCODER: &str = "the text encoder in the folder that diffusers has it in, or --text-encoder FILE: qwen_3_4b.safetensors \
                       of Comfy-Org/z_image_turbo";
const TOKENIZER: &str = "no file of weights has it: --tokenizer Tongyi-MAI/Z-Image-Turbo, or a folder with its tokenizer.json, \
                         or with the folder `tokenizer` of a Z-Image or Qwen3 model";
const TRANSFORMER: &str = "the transformer in the folder that diffusers has it in, or --transformer FILE: z_image_turbo_bf16.safetensors";

/// A checkpoint folder in diffusers' layout; any of the networks may be a single file instead of a folder.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    pub(super) folder: Folder,
    pub(super) config: ZImageConfig,
    /// Whether it is the model that was distilled to a few steps.
    pub(super) turbo: bool,
    pub(super) vae: StillVae,
    pub(super) scheduler: SchedulerConfig,
    transformer: Place,
    encoder: Place,
    tokenizer: Folder,
}

impl Parts {
    /// Reads the configurations of a folder, or infers the sizes from the tensors of single files.
    pub(super) fn open(folder: Folder, files: &GivenFiles) -> Result<Self, CheckpointError> {
        let (config, transformer) = match files.part(Role::Transformer)? {
            Some(given) => {
                let (config, _) = native::open(&given.folder, &given.file, &Device::Cpu, WeightDtype::Keep)?;
                (config, Place::File(given.folder, given.file))
            }
            None => {
                let own = needed(&folder, "transformer", TRANSFORMER)?;
                (read_file(&own, CONFIG, ZImageConfig::from_json, ConfigError::hint)?, Place::Folder(own))
            }
        };
        let encoder = match files.part(Role::TextEncoder)? {
            Some(given) => {
                given.require(&["qwen3", "qwen3_gguf"], "the Qwen3 text encoder that Z-Image reads")?;
                Place::File(given.folder, given.file)
            }
            None => Place::Folder(needed(&folder, "text_encoder", ENCODER)?),
        };
        let tokenizer = files.tokenizer(TokenizerKind::Bpe)?.unwrap_or_else(|| folder.sub("tokenizer"));
        let vae = StillVae::of(&folder, files, ImageVaeConfig::flux1())?;
        let (scheduler, turbo) = scheduler(&folder.sub("scheduler"), &transformer)?;
        if vae.config.latent_channels != config.in_channels {
            let (network, own) = (config.in_channels, vae.config.latent_channels);
            let reason = format!("in_channels is {network}, the latents of the autoencoder have {own}");
            return Err(CheckpointError::BadConfig { file: transformer.describe(), reason });
        }
        Ok(Self { folder, config, turbo, vae, scheduler, transformer, encoder, tokenizer })
    }

    /// The tensors of the network, by the names of diffusers.
    pub(super) fn transformer(
        &self,
        device: &Device,
        dtype: WeightDtype,
    ) -> Result<Weights, CheckpointError> {
        match &self.transformer {
            Place::Folder(folder) => Weights::open(folder, device, dtype),
            Place::File(folder, file) => Ok(native::open(folder, file, device, dtype)?.1),
        }
    }

    /// The same as the adapters of the options change them.
    pub(super) fn adapted(
        &self,
        options: &LoadOptions,
    ) -> Result<(Weights, Vec<AdapterReport>), CheckpointError> {
        let adapters = adapters_of(&options.adapters, 0, 1);
        self.transformer(&options.device, options.network_dtype())?.adapted(&adapters, &native::ADAPTER, 0)
    }

    /// The text encoder: its sizes and its tensors.
    pub(super) fn encoder(
        &self,
        device: &Device,
        dtype: WeightDtype,
    ) -> Result<(Qwen3Config, Weights), CheckpointError> {
        match &self.encoder {
            Place::Folder(folder) => Ok((Qwen3Config::read(folder)?, Weights::open(folder, device, dtype)?)),
            Place::File(folder, file) => {
                let weights = open_language_model(folder, file, device, dtype)?;
                Ok((Qwen3Config::of(&weights)?, weights))
            }
        }
    }

    /// The text encoder with its tokenizer, loaded.
    pub(super) fn texts(&self, options: &LoadOptions) -> Result<ZImageTextEncoder, CheckpointError> {
        if !PromptTokenizer::is_in(&self.tokenizer) {
            let hint = format!("looked in {}; {TOKENIZER}", self.tokenizer.describe());
            return Err(CheckpointError::MissingPart { part: "Qwen3 tokenizer", hint });
        }
        let tokenizer = Qwen3Tokenizer::open(&self.tokenizer, THINKING)?;
        let (config, weights) = self.encoder(&options.device, options.dtype)?;
        if config.hidden_size != self.config.cap_feat_dim {
            let (own, read) = (config.hidden_size, self.config.cap_feat_dim);
            let reason = format!("its hidden states have {own} channels, the transformer reads {read}");
            return Err(CheckpointError::BadConfig { file: weights.place(), reason });
        }
        ZImageTextEncoder::load(tokenizer, &weights, &config)
    }
}

const CONFIG: &str = "config.json";

/// A folder of the model that has to be there, unless a file is given in its place.
fn needed(folder: &Folder, part: &str, expected: &str) -> Result<Folder, CheckpointError> {
    let own = folder.sub(part);
    if own.exists(CONFIG) {
        return Ok(own);
    }
    let file = own.describe_file(CONFIG);
    Err(CheckpointError::MissingFile { file, expected: expected.to_owned() })
}

/// The scheduler settings of the folder, or those that a model of single files is published with; and
/// whether the model is Turbo: no tensor says it, but its shift does, or else the name of its file.
fn scheduler(folder: &Folder, network: &Place) -> Result<(SchedulerConfig, bool), CheckpointError> {
    const FILE: &str = "scheduler_config.json";
    let [turbo, base] = SHIFTS;
    if folder.exists(FILE) {
        let config = read_file(folder, FILE, SchedulerConfig::from_json, Hint::hint)?;
        let nearer = matches!(config.shift, Shift::Static(shift) if shift < f64::midpoint(turbo, base));
        return Ok((config, nearer));
    }
    let named = matches!(network, Place::File(_, file) if file.to_ascii_lowercase().contains("turbo"));
    Ok((SchedulerConfig::new(SamplerKind::Euler, if named { turbo } else { base }), named))
}

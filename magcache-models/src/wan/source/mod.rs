//! Locates the parts of a Wan checkpoint, whatever its layout.
//!
//! [`WanSource::open`] recognises the folder by its contents and reads configurations only; weights are
//! opened part by part, under the names that this crate's models read. The sources for each layout are cited
//! in its module.

mod component;
mod diffusers;
mod files;
mod native;

use candle_core::Device;
use magcache_core::Expert;
use serde_json::Value;

use self::{component::Component, files::Given};
use super::{
    WanConfig, WanImageEncoder, WanTextEncoder,
    s2v::{S2vConfig, S2vTransformer},
};
use crate::{
    autoencoder::{VideoVae, VideoVaeConfig},
    checkpoint::{CheckpointError, Folder, WeightDtype, Weights},
    clip::{ClipImageProcessor, ClipVisionConfig, ClipVisionEncoder},
    pipeline::GivenFiles,
    sampler::SchedulerConfig,
    text::{T5Config, TokenizerKind, WanTokenizer},
    wav2vec2::{Wav2Vec2Config, Wav2Vec2Encoder, Wav2Vec2Processor},
};

/// The name of the image processor's configuration in messages.
const PROCESSOR: &str = "image_processor/preprocessor_config.json";

/// What a text encoder's file should have inside, or the folder beside it.
const TOKENIZER: &str = "the tokenizer of UMT5: GGUF files and ComfyUI's text encoders have it inside; else --tokenizer \
                         google/umt5-xxl, or --model DIR with a folder `tokenizer`";

/// How the files of a checkpoint are arranged and how their tensors are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A folder per part and a `model_index.json`, as written by diffusers.
    Diffusers,
    /// The repositories of the Wan team.
    Native,
    /// Single files, each with a part.
    Files,
}

impl Layout {
    /// The layout's name in messages and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Diffusers => "diffusers",
            Self::Native => "native",
            Self::Files => "single files",
        }
    }
}

/// The task that a Wan model was trained for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WanTask {
    /// Text to video.
    T2V,
    /// Image to video: the first frame is given, as latents and, in Wan 2.1, as CLIP embeddings.
    I2V,
    /// First and last frame to video.
    FLF2V,
    /// Text, with or without a first frame, to video: Wan 2.2 5B, whose first latent frame may be clean.
    TI2V,
    /// Speech and a picture to video: Wan 2.2 14B, one clip after the other.
    S2V,
}

impl WanTask {
    /// The pipeline class that such a model is published for: of diffusers or, where it has none, of the
    /// official code.
    pub fn class_name(self) -> &'static str {
        match self {
            Self::T2V | Self::TI2V => "WanPipeline",
            Self::I2V | Self::FLF2V => "WanImageToVideoPipeline",
            Self::S2V => "WanS2V",
        }
    }

    /// The task's name in messages and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::T2V => "t2v",
            Self::I2V => "i2v",
            Self::FLF2V => "flf2v",
            Self::TI2V => "ti2v",
            Self::S2V => "s2v",
        }
    }
}

/// The vision tower that encodes the given images, in models that attend to them.
#[derive(Clone, Debug)]
struct ImageEncoder {
    part: Component<Value>,
    processor: Option<Value>,
}

/// The transformer of speech to video alone, in a folder with nothing but its `config.json` and tensors under
/// native names.
///
/// # Errors
/// As [`WanSource::open`]; a transformer of another task.
pub(super) fn open_s2v(
    folder: &Folder,
    device: &Device,
    dtype: WeightDtype,
) -> Result<S2vTransformer, CheckpointError> {
    let (part, config) = native::open_s2v(folder.clone())?;
    S2vTransformer::load(&part.weights(device, dtype)?, part.config, config)
}

/// The transformer in a single file of any container, layout and prefix, under our names, with its sizes.
///
/// # Errors
/// A file of another model; a tensor that is missing, unexpected or of another shape.
pub fn open_transformer(
    folder: &Folder,
    file: &str,
    device: &Device,
    dtype: WeightDtype,
) -> Result<(WanConfig, Weights), CheckpointError> {
    let part = native::open_file(folder, file)?;
    let weights = part.weights(device, dtype)?;
    Ok((part.config, weights))
}

/// The autoencoder alone, of a folder with the native layout or with diffusers' folder `vae`, whatever else
/// it has.
///
/// # Errors
/// A missing file; tensors that are not those of a video autoencoder.
pub fn open_vae(folder: &Folder, device: &Device) -> Result<VideoVae, CheckpointError> {
    let part = native::open_vae(folder)?;
    VideoVae::load(&part.weights(device, WeightDtype::Auto)?, &part.config)
}

/// The autoencoder in a single file; `config` if its sizes are not those of the published ones.
///
/// # Errors
/// A file of another model; tensors that do not fit the configuration.
pub fn open_vae_file(
    folder: &Folder,
    file: &str,
    config: Option<&VideoVaeConfig>,
    device: &Device,
) -> Result<VideoVae, CheckpointError> {
    let part = native::open_vae_file(folder, file)?;
    VideoVae::load(&part.weights(device, WeightDtype::Auto)?, config.unwrap_or(&part.config))
}

/// Where the tokenizer is.
#[derive(Clone, Debug)]
enum TokenizerAt {
    /// A folder with `tokenizer.json`.
    Folder(Folder),
    /// Inside a file of weights.
    File(Folder, String),
}

/// What speech to video has besides.
#[derive(Clone, Debug)]
struct Speech {
    config: S2vConfig,
    encoder: Component<Wav2Vec2Config>,
    processor: Wav2Vec2Processor,
}

/// A Wan checkpoint: its configurations and the locations of its weights.
///
/// Cheap to create and to clone. The files of every part have been located, so a checkpoint that lacks one is
/// refused before anything large is read.
#[derive(Clone, Debug)]
pub struct WanSource {
    folder: Folder,
    layout: Layout,
    task: WanTask,
    first: Component<WanConfig>,
    second: Option<Component<WanConfig>>,
    boundary_ratio: Option<f64>,
    expand_timesteps: bool,
    scheduler: SchedulerConfig,
    vae: Component<VideoVaeConfig>,
    text: Component<T5Config>,
    tokenizer: TokenizerAt,
    image: Option<ImageEncoder>,
    speech: Option<Speech>,
}

impl WanSource {
    /// The contents of a folder in the Wan team's layout, for messages.
    pub const NATIVE: &str = native::LOOKED_FOR;

    /// Recognises the folder's layout and reads its configurations.
    ///
    /// # Errors
    /// A folder in no known layout, a missing part, a configuration that this crate cannot build, or
    /// configurations that do not belong to one model.
    pub fn open(folder: Folder) -> Result<Self, CheckpointError> {
        Self::open_with(folder, &GivenFiles::default())
    }

    /// The same with files in place of some or all of the folder's parts.
    ///
    /// # Errors
    /// As [`Self::open`]; a file that is not what it is given for.
    pub fn open_with(folder: Folder, files: &GivenFiles) -> Result<Self, CheckpointError> {
        let given = Given::open(files)?;
        let mut source = match Self::detect(&folder) {
            Some(Layout::Diffusers) => diffusers::open(folder, given)?,
            Some(Layout::Native) => native::open(folder, given)?,
            None | Some(Layout::Files) if given.first.is_some() => files::open(folder, given)?,
            None | Some(Layout::Files) => {
                return Err(CheckpointError::UnknownLayout {
                    folder: folder.describe(),
                    looked_for: vec![diffusers::looked_for(), Self::NATIVE.to_owned()],
                });
            }
        };
        if let Some(folder) = files.tokenizer(TokenizerKind::Unigram)? {
            source.tokenizer = TokenizerAt::Folder(folder);
        }
        source.checked()
    }

    /// The layout that the folder seems to have, however incomplete it is; `None` for any other folder.
    pub fn detect(folder: &Folder) -> Option<Layout> {
        if diffusers::detects(folder) {
            Some(Layout::Diffusers)
        } else {
            native::detects(folder).then_some(Layout::Native)
        }
    }

    /// The folder as given.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// How the files are arranged.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The task that the model was trained for.
    pub fn task(&self) -> WanTask {
        self.task
    }

    /// Number of transformers: 2 in Wan 2.2 A14B, of which the first denoises at high noise, else 1.
    pub fn experts(&self) -> usize {
        1 + usize::from(self.second.is_some())
    }

    /// The fraction of the training timesteps below which the second expert runs; present if and only if
    /// there are two.
    pub fn boundary_ratio(&self) -> Option<f64> {
        self.boundary_ratio
    }

    /// Whether every token has its own timestep, so that a given first frame can be at 0.
    pub fn expand_timesteps(&self) -> bool {
        self.expand_timesteps
    }

    /// The sampler and the shift that the model is published with.
    pub fn scheduler(&self) -> SchedulerConfig {
        self.scheduler.clone()
    }

    /// Sizes of an expert's transformer. The same for every expert if the model has one transformer.
    pub fn transformer_config(&self, expert: Expert) -> &WanConfig {
        &self.expert(expert).config
    }

    /// An expert's tensors. The same for every expert if the model has one transformer.
    pub fn transformer(
        &self,
        expert: Expert,
        device: &Device,
        dtype: WeightDtype,
    ) -> Result<Weights, CheckpointError> {
        self.expert(expert).weights(device, dtype)
    }

    /// Sizes of the video autoencoder.
    pub fn vae_config(&self) -> &VideoVaeConfig {
        &self.vae.config
    }

    /// The autoencoder's tensors.
    pub fn vae(&self, device: &Device, dtype: WeightDtype) -> Result<Weights, CheckpointError> {
        self.vae.weights(device, dtype)
    }

    /// Sizes of the text encoder.
    pub fn text_encoder_config(&self) -> &T5Config {
        &self.text.config
    }

    /// The text encoder's tensors.
    pub fn text_encoder(&self, device: &Device, dtype: WeightDtype) -> Result<Weights, CheckpointError> {
        self.text.weights(device, dtype)
    }

    /// The tokenizer, in its folder or inside the text encoder's file.
    pub fn tokenizer(&self) -> Result<WanTokenizer, CheckpointError> {
        match &self.tokenizer {
            TokenizerAt::Folder(folder) => WanTokenizer::open(folder),
            TokenizerAt::File(folder, file) => match WanTokenizer::in_file(folder, file)? {
                Some(tokenizer) => Ok(tokenizer),
                None => Err(CheckpointError::MissingFile {
                    file: format!("a tokenizer in {}", folder.describe_file(file)),
                    expected: TOKENIZER.to_owned(),
                }),
            },
        }
    }

    /// Tokenizer and text encoder together, ready for prompts.
    pub fn load_text_encoder(
        &self,
        device: &Device,
        dtype: WeightDtype,
    ) -> Result<WanTextEncoder, CheckpointError> {
        WanTextEncoder::from_parts(self.tokenizer()?, &self.text_encoder(device, dtype)?, &self.text.config)
    }

    /// `config.json` of the CLIP vision tower, with the keys of transformers; `None` in models without one.
    pub fn image_encoder_config(&self) -> Option<&Value> {
        self.image.as_ref().map(|image| &image.part.config)
    }

    /// `preprocessor_config.json` of the CLIP vision tower, if the checkpoint has one.
    pub fn image_processor_config(&self) -> Option<&Value> {
        self.image.as_ref()?.processor.as_ref()
    }

    /// The CLIP vision tower's tensors; `None` in models without one.
    pub fn image_encoder(
        &self,
        device: &Device,
        dtype: WeightDtype,
    ) -> Result<Option<Weights>, CheckpointError> {
        self.image.as_ref().map(|image| image.part.weights(device, dtype)).transpose()
    }

    /// Image processor and image encoder together, ready for pictures; `None` in models without one.
    pub fn load_image_encoder(
        &self,
        device: &Device,
        dtype: WeightDtype,
    ) -> Result<Option<WanImageEncoder>, CheckpointError> {
        let Some(image) = &self.image else { return Ok(None) };
        let processor = match &image.processor {
            Some(values) => ClipImageProcessor::from_value(values, PROCESSOR)?,
            None => ClipImageProcessor::default(),
        };
        let config = ClipVisionConfig::from_value(&image.part.config, &image.part.place)?;
        let encoder = ClipVisionEncoder::load(&image.part.weights(device, dtype)?, &config)?;
        WanImageEncoder::new(processor, encoder, PROCESSOR, device).map(Some)
    }

    /// What the transformer of speech to video has besides; `None` in other models.
    pub fn speech_config(&self) -> Option<&S2vConfig> {
        self.speech.as_ref().map(|speech| &speech.config)
    }

    /// Hidden states of a recording of so many samples at 16 kHz; 0 in models without an encoder of speech.
    pub fn speech_states(&self, samples: usize) -> usize {
        self.speech.as_ref().map_or(0, |speech| speech.encoder.config.states(samples))
    }

    /// Bytes that the encoder of speech has alive at its peak, for so many samples.
    pub fn speech_activations(&self, samples: usize) -> u64 {
        self.speech.as_ref().map_or(0, |speech| speech.encoder.config.activation_bytes(samples))
    }

    /// The speech encoder's tensors; `None` in models without one.
    pub fn speech_encoder(
        &self,
        device: &Device,
        dtype: WeightDtype,
    ) -> Result<Option<Weights>, CheckpointError> {
        self.speech.as_ref().map(|speech| speech.encoder.weights(device, dtype)).transpose()
    }

    /// Processor and encoder of speech; `None` in models without one.
    pub fn load_speech_encoder(
        &self,
        device: &Device,
        dtype: WeightDtype,
    ) -> Result<Option<(Wav2Vec2Processor, Wav2Vec2Encoder)>, CheckpointError> {
        let Some(Speech { encoder, processor, .. }) = &self.speech else { return Ok(None) };
        let weights = encoder.weights(device, dtype)?;
        Ok(Some((processor.clone(), Wav2Vec2Encoder::load(&weights, &encoder.config)?)))
    }

    fn expert(&self, expert: Expert) -> &Component<WanConfig> {
        match &self.second {
            Some(second) if expert != Expert(0) => second,
            _ => &self.first,
        }
    }

    /// Checks that the parts fit together.
    fn checked(self) -> Result<Self, CheckpointError> {
        let z = self.vae.config.z_dim;
        // Besides the noise, a given frame adds its latents and a mask with one channel per frame of a latent
        // one.
        let expected = match self.task {
            WanTask::T2V | WanTask::TI2V | WanTask::S2V => z,
            WanTask::I2V | WanTask::FLF2V => 2 * z + self.vae.config.temporal_scale(),
        };
        for part in [Some(&self.first), self.second.as_ref()].into_iter().flatten() {
            let WanConfig { in_channels, out_channels, .. } = part.config;
            let task = self.task.name();
            let reason = if in_channels != expected {
                format!("in_channels is {in_channels}, {task} with {z} latent channels takes {expected}")
            } else if out_channels != z {
                format!("out_channels is {out_channels}, the autoencoder has {z} latent channels")
            } else if part.config.text_dim != self.text.config.d_model {
                let d_model = self.text.config.d_model;
                format!("text_dim is {}, the text encoder gives {d_model} channels", part.config.text_dim)
            } else {
                continue;
            };
            return Err(part.refused(reason));
        }
        match &self.second {
            Some(second) if second.config != self.first.config => {
                Err(second.refused(format!("differs from {}", self.first.place)))
            }
            _ => Ok(self),
        }
    }
}

//! Models whose parts are single files: all of them, or in place of a folder's.

use super::{
    ImageEncoder, Layout, TokenizerAt, WanSource, WanTask,
    component::Component,
    native::{self, boundary, shift, task_of},
};
use crate::{
    autoencoder::VideoVaeConfig,
    checkpoint::{CheckpointError, Folder},
    pipeline::{GivenFiles, Noise, PartFile, noise_of},
    recognise::Role,
    sampler::{SamplerKind, SchedulerConfig},
    text::T5Config,
    wan::WanConfig,
};

/// The parts that were given as files.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) first: Option<Component<WanConfig>>,
    pub(super) second: Option<Component<WanConfig>>,
    /// With the tokenizer that may be inside.
    pub(super) text: Option<(Component<T5Config>, TokenizerAt)>,
    pub(super) image: Option<ImageEncoder>,
    pub(super) vae: Option<Component<VideoVaeConfig>>,
    /// The expert that the name of the only transformer says.
    noise: Option<Noise>,
}

impl Given {
    /// Opens the files; reads headers only.
    pub(super) fn open(files: &GivenFiles) -> Result<Self, CheckpointError> {
        let transformer = |part: PartFile| native::open_file(&part.folder, &part.file);
        let text = files.part(Role::TextEncoder)?.map(|file| {
            let inside = TokenizerAt::File(file.folder.clone(), file.file.clone());
            Ok::<_, CheckpointError>((native::text_file(&file.folder, file.file)?, inside))
        });
        let image = files.part(Role::ImageEncoder)?;
        let vae = files.part(Role::Vae)?;
        Ok(Self {
            first: files.part(Role::Transformer)?.map(transformer).transpose()?,
            second: files.second()?.map(transformer).transpose()?,
            text: text.transpose()?,
            image: image.map(|file| native::image_file(&file.folder, file.file)).transpose()?,
            vae: vae.map(|file| native::open_vae_file(&file.folder, &file.file)).transpose()?,
            noise: files.transformer.as_deref().and_then(noise_of),
        })
    }
}

/// A part that is not there, and where it is usually found.
fn missing(part: &'static str, hint: &str) -> CheckpointError {
    CheckpointError::MissingPart { part, hint: hint.to_owned() }
}

const TEXT: &str = "--text-encoder FILE: umt5_xxl_fp8_e4m3fn_scaled.safetensors of \
                    Comfy-Org/Wan_2.1_ComfyUI_repackaged, or umt5-xxl-encoder-Q8_0.gguf of city96/umt5-xxl-encoder-gguf";
const VAE: &str = "--vae FILE: wan_2.1_vae.safetensors of Comfy-Org/Wan_2.1_ComfyUI_repackaged (for Wan2.2 A14B too), or \
                   wan2.2_vae.safetensors of Comfy-Org/Wan_2.2_ComfyUI_Repackaged for TI2V 5B";
const IMAGE: &str = "--image-encoder FILE: clip_vision_h.safetensors of Comfy-Org/Wan_2.1_ComfyUI_repackaged";
const SECOND: &str =
    "--transformer is the one for high noise, --transformer-2 FILE the one for low; both are needed";

/// A model of files alone; `folder` has nothing of it.
pub(super) fn open(folder: Folder, given: Given) -> Result<WanSource, CheckpointError> {
    let Some(first) = given.first else { return Err(missing("transformer", "--transformer FILE")) };
    let task = task_of(&first.config);
    // One expert of Wan 2.2 by its name, or because only that model gets images in its channels alone.
    let of_two = given.noise.is_some() || (task == WanTask::I2V && first.config.image_dim.is_none());
    if given.second.is_none() && of_two {
        return Err(missing("second expert", SECOND));
    }
    let (text, tokenizer) = given.text.ok_or_else(|| missing("text encoder", TEXT))?;
    let image = match (first.config.image_dim, given.image) {
        (Some(_), None) => return Err(missing("image encoder", IMAGE)),
        (None, _) => None,
        (Some(_), image) => image,
    };
    Ok(WanSource {
        layout: Layout::Files,
        task,
        boundary_ratio: given.second.as_ref().map(|_| boundary(task)),
        expand_timesteps: task == WanTask::TI2V,
        scheduler: SchedulerConfig::new(SamplerKind::WanUniPc, shift(task, given.second.is_some())),
        vae: given.vae.ok_or_else(|| missing("autoencoder", VAE))?,
        first,
        second: given.second,
        text,
        tokenizer,
        image,
        speech: None,
        folder,
    })
}

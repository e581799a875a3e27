//! The repositories of the Wan team: Wan2.1 T2V, I2V and FLF2V, Wan2.2 A14B (two transformers), TI2V 5B and
//! S2V 14B.
//!
//! Source: `generate.py`, `wan/configs` and `wan/modules` of Wan2.1 (9737cba) and Wan2.2 (42bf4cf), and the
//! file names of the published folders. Those programs know each model's sizes by its name; here they are
//! inferred from the tensors, so that models of other sizes load too. What no file contains is taken from
//! those programs: sampler, shift and boundary.

mod encoders;
mod transformer;
mod vae;

use self::transformer::Opened;
pub(super) use self::{
    encoders::{image_file, text_file},
    transformer::{open_file, task_of},
};
use super::{
    Given, ImageEncoder, Layout, Speech, TokenizerAt, WanSource, WanTask, component::Component, diffusers,
};
use crate::{
    autoencoder::VideoVaeConfig,
    checkpoint::{CheckpointError, Folder},
    sampler::{SamplerKind, SchedulerConfig},
    wan::{WanConfig, s2v::S2vConfig},
};

/// Folders of the two transformers, in the order of their experts.
const EXPERTS: [&str; 2] = ["high_noise_model", "low_noise_model"];

/// Folder of the tokenizer.
const TOKENIZER: &str = "google/umt5-xxl";

/// Extensions of weight files, in order of preference.
const ENDINGS: [&str; 4] = [".safetensors", ".pth", ".pt", ".bin"];

/// The contents of a native checkpoint's folder, for messages.
pub(super) const LOOKED_FOR: &str = "config.json with `dim` and `model_type`, or the folders high_noise_model and \
                                     low_noise_model with one each (the Wan team's layout)";

/// Whether the folder looks like one of these repositories, however incomplete.
pub(super) fn detects(folder: &Folder) -> bool {
    EXPERTS.iter().any(|expert| folder.sub(expert).exists(transformer::CONFIG))
        || transformer::detects(folder)
}

pub(super) fn open(folder: Folder, given: Given) -> Result<WanSource, CheckpointError> {
    let two = EXPERTS.iter().any(|expert| folder.sub(expert).exists(transformer::CONFIG));
    let [high, low] = EXPERTS;
    let (Opened { task, part: first, speech }, second) = if two {
        // Checks for both before reading either.
        for (expert, other) in [(high, low), (low, high)] {
            if !folder.sub(expert).exists(transformer::CONFIG) {
                return Err(CheckpointError::MissingFile {
                    file: folder.sub(expert).describe_file(transformer::CONFIG),
                    expected: format!("the other transformer of the model in {other}"),
                });
            }
        }
        (transformer::open(folder.sub(high))?, Some(transformer::open(folder.sub(low))?))
    } else {
        (transformer::open(folder.clone())?, None)
    };
    let second = match second {
        Some(second) if second.task != task => {
            let reason = format!("model_type is {}, that of {high} is {}", second.task.name(), task.name());
            return Err(second.part.refused(reason));
        }
        Some(second) if task == WanTask::S2V => {
            return Err(second.part.refused("model_type is s2v, which has one transformer".to_owned()));
        }
        second => second.map(|second| second.part),
    };
    let first = given.first.unwrap_or(first);
    let second = given.second.or(second);
    let image = match given.image {
        Some(image) => Some(image),
        None => first.config.image_dim.map(|_| encoders::image(&folder)).transpose()?,
    };
    let (text, tokenizer) = match given.text {
        Some((text, inside)) => (text, tokenizer(&folder).map_or(inside, TokenizerAt::Folder)),
        None => (encoders::text(&folder)?, TokenizerAt::Folder(tokenizer(&folder)?)),
    };
    let speech = speech.map(|config| encoders::speech(&folder, config)).transpose()?;
    Ok(WanSource {
        layout: Layout::Native,
        boundary_ratio: second.as_ref().map(|_| boundary(task)),
        expand_timesteps: task == WanTask::TI2V,
        scheduler: SchedulerConfig::new(SamplerKind::WanUniPc, shift(task, second.is_some())),
        vae: given.vae.map_or_else(|| vae::open(&folder), Ok)?,
        text,
        tokenizer,
        image,
        speech,
        task,
        first,
        second,
        folder,
    })
}

/// The tokenizer in its own folder, or in the one that diffusers puts it in.
fn tokenizer(folder: &Folder) -> Result<Folder, CheckpointError> {
    let (own, other) = (folder.sub(TOKENIZER), folder.sub("tokenizer"));
    let missing = !own.exists("tokenizer.json") && other.exists("tokenizer.json");
    diffusers::tokenizer(if missing { other } else { own })
}

/// The autoencoder in a single file of `folder`.
pub(super) fn open_vae_file(
    folder: &Folder,
    file: &str,
) -> Result<Component<VideoVaeConfig>, CheckpointError> {
    vae::open_file(folder, file)
}

/// The autoencoder in `folder`.
pub(super) fn open_vae(folder: &Folder) -> Result<Component<VideoVaeConfig>, CheckpointError> {
    vae::open(folder)
}

/// The transformer of speech to video in `folder`.
pub(super) fn open_s2v(folder: Folder) -> Result<(Component<WanConfig>, S2vConfig), CheckpointError> {
    let Opened { task, part, speech } = transformer::open(folder)?;
    match speech {
        Some(speech) => Ok((part, speech)),
        None => Err(part.refused(format!("model_type is {}, expected s2v", task.name()))),
    }
}

/// `sample_shift`. Wan2.1's program uses 3 instead of 5 for image to video at 480p, whatever the checkpoint;
/// that is left to the pipeline, which knows the size.
pub(super) fn shift(task: WanTask, two: bool) -> f64 {
    match task {
        WanTask::T2V if two => 12.0,
        WanTask::FLF2V => 16.0,
        WanTask::S2V => 3.0,
        WanTask::T2V | WanTask::I2V | WanTask::TI2V => 5.0,
    }
}

/// The part of the noise below which the second of two experts runs.
pub(super) fn boundary(task: WanTask) -> f64 {
    if task == WanTask::I2V { 0.9 } else { 0.875 }
}

/// The file in `folder` whose name without the extension `fits`.
fn find(folder: &Folder, fits: impl Fn(&str) -> bool, expected: &str) -> Result<String, CheckpointError> {
    let files = folder.files();
    let named =
        |ending: &str| files.iter().find(|name| name.strip_suffix(ending).is_some_and(&fits)).cloned();
    ENDINGS.iter().find_map(|ending| named(ending)).ok_or_else(|| CheckpointError::MissingFile {
        file: folder.describe_file(expected),
        expected: format!("that file, or one named like it that ends with {}", ENDINGS.join(", ")),
    })
}

//! Folders in diffusers' layout: `model_index.json` and one folder per part.
//!
//! Source: `WanPipeline` and `WanImageToVideoPipeline` of diffusers 0.42.1 and the folders published with
//! them. The two classes serve five kinds of model: `expand_timesteps` marks TI2V, a learned position on the
//! image tokens FLF2V. A part whose entry in `model_index.json` is `[null, null]` is absent on purpose.

use std::collections::BTreeMap;

use magcache_core::hint::Hint;
use serde::Deserialize;
use serde_json::Value;

use super::{Component, Given, ImageEncoder, Layout, TokenizerAt, WanSource, WanTask};
use crate::{
    autoencoder::VideoVaeConfig,
    checkpoint::{CheckpointError, Folder, config::read_file},
    sampler::SchedulerConfig,
    text::T5Config,
    wan::WanConfig,
};

const INDEX: &str = "model_index.json";

const TEXT_TO_VIDEO: &str = "WanPipeline";
const IMAGE_TO_VIDEO: &str = "WanImageToVideoPipeline";

/// The classes that [`open`] understands.
const CLASSES: [&str; 2] = [TEXT_TO_VIDEO, IMAGE_TO_VIDEO];

#[derive(Deserialize)]
struct Index {
    #[serde(rename = "_class_name")]
    class_name: String,
    boundary_ratio: Option<f64>,
    #[serde(default)]
    expand_timesteps: bool,
    #[serde(flatten)]
    parts: BTreeMap<String, Value>,
}

impl Index {
    /// Whether the file lists such a part.
    fn names(&self, part: &str) -> bool {
        self.parts.get(part).and_then(Value::as_array).is_some_and(|class| class.iter().any(|v| !v.is_null()))
    }
}

/// The contents of such a folder, for messages.
pub(super) fn looked_for() -> String {
    format!("{INDEX} of {} (the diffusers layout)", CLASSES.join(" or "))
}

/// Whether there is an index at all; [`open`] reports the error if it belongs to another model.
pub(super) fn detects(folder: &Folder) -> bool {
    folder.exists(INDEX)
}

pub(super) fn open(folder: Folder, given: Given) -> Result<WanSource, CheckpointError> {
    let index: Index = folder.read_json(INDEX)?;
    let bad = |reason: String| CheckpointError::BadConfig { file: folder.describe_file(INDEX), reason };
    if !CLASSES.contains(&index.class_name.as_str()) {
        return Err(CheckpointError::WrongArchitecture {
            file: folder.describe_file(INDEX),
            expected: CLASSES.join("\" or \""),
            found: index.class_name,
        });
    }
    let transformer = |name: &str| Component::in_folder(folder.sub(name), transformer_config);
    let first = given.first.map_or_else(|| transformer("transformer"), Ok)?;
    let second = match given.second {
        Some(second) => Some(second),
        None => index.names("transformer_2").then(|| transformer("transformer_2")).transpose()?,
    };
    match (index.boundary_ratio, &second) {
        (Some(ratio), Some(_)) if !(ratio > 0.0 && ratio < 1.0) => {
            return Err(bad(format!("boundary_ratio is {ratio}, expected a number between 0 and 1")));
        }
        (Some(ratio), None) => {
            return Err(bad(format!("boundary_ratio is {ratio}, but there is no transformer_2")));
        }
        (None, Some(_)) => {
            return Err(bad("boundary_ratio is null, expected a number for two transformers".into()));
        }
        _ => {}
    }
    let task = match index.class_name.as_str() {
        _ if index.expand_timesteps => WanTask::TI2V,
        TEXT_TO_VIDEO => WanTask::T2V,
        _ if first.config.pos_embed_seq_len.is_some() => WanTask::FLF2V,
        _ => WanTask::I2V,
    };
    let image = match given.image {
        Some(image) => Some(image),
        None => (first.config.image_dim.is_some() || index.names("image_encoder"))
            .then(|| image_encoder(&folder))
            .transpose()?,
    };
    let (text, tokenizer) = match given.text {
        Some((text, inside)) => {
            (text, tokenizer(folder.sub("tokenizer")).map_or(inside, TokenizerAt::Folder))
        }
        None => (
            Component::in_folder(folder.sub("text_encoder"), T5Config::read)?,
            TokenizerAt::Folder(tokenizer(folder.sub("tokenizer"))?),
        ),
    };
    Ok(WanSource {
        layout: Layout::Diffusers,
        task,
        first,
        second,
        boundary_ratio: index.boundary_ratio,
        expand_timesteps: index.expand_timesteps,
        scheduler: read_file(
            &folder.sub("scheduler"),
            "scheduler_config.json",
            SchedulerConfig::from_json,
            Hint::hint,
        )?,
        vae: given.vae.map_or_else(|| Component::in_folder(folder.sub("vae"), VideoVaeConfig::read), Ok)?,
        text,
        tokenizer,
        image,
        speech: None,
        folder,
    })
}

/// Reads `config.json` of a folder `transformer`.
fn transformer_config(folder: &Folder) -> Result<WanConfig, CheckpointError> {
    let text = folder.read_to_string("config.json")?;
    WanConfig::from_json(&text).map_err(|e| CheckpointError::Config {
        file: folder.describe(),
        reason: e.to_string(),
        hint: e.hint(),
    })
}

/// The folder, if it contains the one file that is indispensable.
pub(super) fn tokenizer(folder: Folder) -> Result<Folder, CheckpointError> {
    const FILE: &str = "tokenizer.json";
    if folder.exists(FILE) {
        return Ok(folder);
    }
    Err(CheckpointError::MissingFile {
        file: folder.describe_file(FILE),
        expected: "the tokenizer of UMT5".into(),
    })
}

fn image_encoder(folder: &Folder) -> Result<ImageEncoder, CheckpointError> {
    const PROCESSOR: &str = "preprocessor_config.json";
    let processor = folder.sub("image_processor");
    Ok(ImageEncoder {
        part: Component::in_folder(folder.sub("image_encoder"), |part| part.read_json("config.json"))?,
        processor: processor.exists(PROCESSOR).then(|| processor.read_json(PROCESSOR)).transpose()?,
    })
}

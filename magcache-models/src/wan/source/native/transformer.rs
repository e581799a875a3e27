//! `config.json` and tensors of a native transformer.

use candle_core::Device;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Component, WanTask};
use crate::{
    checkpoint::{CheckpointError, Folder, WeightDtype, Weights},
    recognise::{self, Role},
    wan::{
        WanConfig,
        config::CLASS_NAME,
        names,
        s2v::{self, S2vConfig},
        source::component::Names,
    },
};

pub(super) const CONFIG: &str = "config.json";

/// Keys that a file may have besides those of [`Native`]: they concern the program, or always have the same
/// value.
const UNUSED: [&str; 6] = ["text_len", "window_size", "qk_norm", "cross_attn_norm", "patch_size", "text_dim"];

/// The sizes that cannot be inferred from the tensors, with the defaults of `WanModel`.
#[derive(Deserialize)]
struct Native {
    model_type: String,
    num_heads: usize,
    #[serde(default = "default_eps")]
    eps: f64,
}

fn default_eps() -> f64 {
    1e-6
}

/// Keys whose values can also be inferred from the tensors, and have to agree with them.
const SIZES: [(&str, &str); 6] = [
    ("in_dim", "in_channels"),
    ("out_dim", "out_channels"),
    ("ffn_dim", "ffn_dim"),
    ("freq_dim", "freq_dim"),
    ("num_layers", "num_layers"),
    ("dim", ""),
];

/// `model_type` of speech to video.
const S2V: &str = "s2v";

/// Whether `config.json` is that of a native transformer.
pub(super) fn detects(folder: &Folder) -> bool {
    folder.exists(CONFIG)
        && folder
            .read_json::<Value>(CONFIG)
            .is_ok_and(|config| config.get("model_type").is_some() && config.get("dim").is_some())
}

/// A transformer, and what it is for.
pub(super) struct Opened {
    pub(super) task: WanTask,
    pub(super) part: Component<WanConfig>,
    /// What speech to video has besides.
    pub(super) speech: Option<S2vConfig>,
}

/// The transformer in `folder`.
pub(super) fn open(folder: Folder) -> Result<Opened, CheckpointError> {
    let json: Value = folder.read_json(CONFIG)?;
    let native: Native = folder.read_json(CONFIG)?;
    let place = folder.describe_file(CONFIG);
    let refused = |reason: String| CheckpointError::BadConfig { file: place.clone(), reason };
    let speaks = native.model_type == S2V;
    let known = |key: &str| {
        key.starts_with('_')
            || ["model_type", "num_heads", "eps"].contains(&key)
            || UNUSED.contains(&key)
            || SIZES.iter().any(|(native, _)| *native == key)
            || (speaks && s2v::knows_key(key))
    };
    if let Some((key, value)) = json.as_object().into_iter().flatten().find(|(key, _)| !known(key)) {
        return Err(refused(format!(
            "unknown key {key} = {value}, it may stand for a part that is not implemented"
        )));
    }
    let files = Weights::locate(&folder)?;
    let weights = Weights::open_files(&folder, &files, &Device::Cpu, WeightDtype::Keep)?;
    let weights = weights.renamed(names::to_diffusers)?;
    let (sizes, dim) = sizes(&weights, weights.axes("patch_embedding.weight")?, &native)?;
    for (key, ours) in SIZES {
        let found = sizes.get(ours).cloned().unwrap_or_else(|| json!(dim));
        if let Some(stated) = json.get(key).filter(|stated| **stated != found) {
            return Err(refused(format!("{key} is {stated}, the tensors make it {found}")));
        }
    }
    let config = WanConfig::from_json(&sizes.to_string()).map_err(|error| refused(error.to_string()))?;
    let task = match native.model_type.as_str() {
        "t2v" => WanTask::T2V,
        "i2v" | "flf2v" if config.pos_embed_seq_len.is_some() => WanTask::FLF2V,
        "i2v" => WanTask::I2V,
        "ti2v" => WanTask::TI2V,
        S2V => WanTask::S2V,
        other => {
            return Err(refused(format!(
                "model_type is \"{other}\", supported are t2v, i2v, flf2v, ti2v and {S2V}"
            )));
        }
    };
    let speech = speaks.then(|| S2vConfig::from_value(&json, &config, &weights, &place)).transpose()?;
    Ok(Opened {
        task,
        part: Component { config, place, folder, files, part: None, names: Names::Transformer },
        speech,
    })
}

/// Channels of a head in every published model.
const HEAD_DIM: usize = 128;

/// What a configuration beside a single file, or in its header, says.
#[derive(Default, Deserialize)]
struct Stated {
    #[serde(rename = "_class_name")]
    class_name: Option<String>,
    num_heads: Option<usize>,
    eps: Option<f64>,
}

/// The transformer in a single file, whatever else is in it.
///
/// The number of heads, which no tensor says, is that of `config.json` beside the file or of the file's
/// header, else one for every 128 channels.
pub(in crate::wan) fn open_file(
    folder: &Folder,
    file: &str,
) -> Result<Component<WanConfig>, CheckpointError> {
    let weights = Weights::open_files(folder, &[file], &Device::Cpu, WeightDtype::Keep)?;
    let part = recognise::part(&weights, &[Role::Transformer])?;
    let place = weights.place();
    if !["wan", "wan_diffusers"].contains(&part.layout.name.as_str()) {
        let (found, expected) = (part.describe(), "Wan transformer".to_owned());
        return Err(CheckpointError::WrongArchitecture { file: place, expected, found });
    }
    let refused = |reason: String| CheckpointError::BadConfig { file: place.clone(), reason };
    let beside: Stated = if folder.exists(CONFIG) { folder.read_json(CONFIG)? } else { Stated::default() };
    let config = if beside.class_name.as_deref() == Some(CLASS_NAME) {
        WanConfig::from_json(&folder.read_to_string(CONFIG)?).map_err(|error| refused(error.to_string()))?
    } else {
        let header = weights.text("config").map(serde_json::from_str::<Value>).transpose();
        let header = header.map_err(|error| refused(format!("`config` in its header: {error}")))?;
        let header = header.and_then(|config| Stated::deserialize(&config["transformer"]).ok());
        let stated = |of: fn(&Stated) -> Option<f64>| of(&beside).or(header.as_ref().and_then(of));
        let size = |letter: &str| part.sizes.get(letter).copied().unwrap_or_default();
        let native = Native {
            model_type: String::new(),
            num_heads: stated(|of| of.num_heads.map(|heads| heads as f64))
                .map_or(size("D") / HEAD_DIM, |heads| heads as usize),
            eps: stated(|of| of.eps).unwrap_or_else(default_eps),
        };
        let patch = [size("D"), size("C"), 1, 2, 2];
        let taken = part.take(weights)?;
        let ours = if names::is_native(taken.names()) { taken.renamed(names::to_diffusers)? } else { taken };
        let (sizes, _) = sizes(&ours, patch, &native)?;
        WanConfig::from_json(&sizes.to_string()).map_err(|error| refused(error.to_string()))?
    };
    let (folder, files) = (folder.clone(), vec![file.to_owned()]);
    let names = if part.is("wan") { Names::Transformer } else { Names::Ours };
    Ok(Component { config, place, folder, files, part: Some(part), names })
}

/// What a transformer of these sizes was trained for, in models whose files do not say.
pub(in crate::wan) fn task_of(config: &WanConfig) -> WanTask {
    match (config.pos_embed_seq_len, config.image_dim) {
        (Some(_), _) => WanTask::FLF2V,
        (None, Some(_)) => WanTask::I2V,
        // The one model whose autoencoder has so many channels.
        (None, None) if config.out_channels == 48 => WanTask::TI2V,
        (None, None) if config.in_channels != config.out_channels => WanTask::I2V,
        (None, None) => WanTask::T2V,
    }
}

/// The configuration with diffusers' keys, from tensors that already have diffusers' names; and the inner
/// dimension. `patch` is the shape of the patch embedding, whose axes files may have folded.
fn sizes(weights: &Weights, patch: [usize; 5], native: &Native) -> Result<(Value, usize), CheckpointError> {
    let [dim, in_channels, patch_size @ ..] = patch;
    let [_, freq_dim] = weights.axes::<2>("condition_embedder.time_embedder.linear_1.weight")?;
    let [_, text_dim] = weights.axes::<2>("condition_embedder.text_embedder.linear_1.weight")?;
    let [ffn_dim, _] = weights.axes::<2>("blocks.0.ffn.net.0.proj.weight")?;
    let [out, _] = weights.axes::<2>("proj_out.weight")?;
    let image_norm = "condition_embedder.image_embedder.norm1.weight";
    let image_dim = weights.contains(image_norm).then(|| weights.axes::<1>(image_norm)).transpose()?;
    let positions = "condition_embedder.image_embedder.pos_embed";
    let positions = weights.contains(positions).then(|| weights.axes::<3>(positions)).transpose()?;
    let sizes = json!({
        "patch_size": patch_size,
        "num_attention_heads": native.num_heads,
        "attention_head_dim": dim / native.num_heads.max(1),
        "in_channels": in_channels,
        "out_channels": out / patch_size.iter().product::<usize>().max(1),
        "text_dim": text_dim,
        "freq_dim": freq_dim,
        "ffn_dim": ffn_dim,
        "num_layers": weights.count("blocks."),
        "cross_attn_norm": weights.contains("blocks.0.norm2.weight"),
        "eps": native.eps,
        "image_dim": image_dim.map(|[channels]| channels),
        "added_kv_proj_dim": image_dim.map(|_| dim),
        "pos_embed_seq_len": positions.map(|[_, tokens, _]| tokens),
    });
    Ok((sizes, dim))
}

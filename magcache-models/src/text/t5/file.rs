//! T5 and UMT5 in single files: GGUF, and the safetensors files of ComfyUI.

use candle_core::Device;
use serde_json::json;

use super::{T5Config, names};
use crate::{
    checkpoint::{CheckpointError, Folder, WeightDtype, Weights, config::ModelType},
    recognise::{self, Part, Role},
};

/// An encoder in a file.
#[derive(Clone, Debug)]
pub struct T5File {
    /// Its sizes, from the shapes of its tensors.
    pub config: T5Config,
    /// Its tensors, by their names in transformers.
    pub weights: Weights,
    /// What it is in the file.
    pub part: Part,
}

/// What GGUF files say of the norms' epsilon, which no tensor does.
const EPS: &str = "t5encoder.attention.layer_norm_rms_epsilon";

/// A configuration beside the file, which says what no tensor does.
const CONFIG: &str = "config.json";

/// Opens the encoder in `file`, whatever else is in it. Its sizes are those of its tensors, or of a
/// `config.json` of T5 beside it.
///
/// # Errors
/// A file without one; a tensor that is missing, unexpected or of another shape.
pub fn open_t5(
    folder: &Folder,
    file: &str,
    device: &Device,
    dtype: WeightDtype,
) -> Result<T5File, CheckpointError> {
    let beside = folder.exists(CONFIG)
        && folder
            .read_json::<ModelType>(CONFIG)
            .is_ok_and(|config| config.check(&["t5", "umt5"], CONFIG).is_ok());
    let stated = beside.then(|| T5Config::read(folder)).transpose()?;
    open_t5_as(folder, file, stated, device, dtype)
}

/// The same with sizes that are known from elsewhere.
///
/// # Errors
/// As [`open_t5`].
pub fn open_t5_as(
    folder: &Folder,
    file: &str,
    config: Option<T5Config>,
    device: &Device,
    dtype: WeightDtype,
) -> Result<T5File, CheckpointError> {
    let weights = Weights::open_files(folder, &[file], device, dtype)?;
    let part = recognise::part(&weights, &[Role::TextEncoder])?;
    if !part.layout.name.contains("t5") {
        let (file, found) = (weights.place(), part.describe());
        let expected = "a text encoder of T5 or UMT5".to_owned();
        return Err(CheckpointError::WrongArchitecture { file, expected, found });
    }
    let size = |letter: &str| part.sizes.get(letter).copied().unwrap_or_default();
    let mut json = json!({
        "model_type": if part.layout.name.starts_with("umt5") { "umt5" } else { "t5" },
        "vocab_size": size("V"), "d_model": size("D"), "d_kv": size("A"), "d_ff": size("F"),
        "num_layers": size("L"), "num_heads": size("H"), "relative_attention_num_buckets": size("B"),
        "feed_forward_proj": "gated-gelu"
    });
    if let Some(eps) = weights.number(EPS) {
        json["layer_norm_epsilon"] = eps.into();
    }
    let config = config.map_or_else(|| T5Config::from_value(json, &weights.place()), Ok)?;
    let weights = part.take(weights)?;
    let weights = match part.layout.name.as_str() {
        "umt5_native" => weights.mapped(names::native),
        "umt5_gguf" | "t5_gguf" => weights.mapped(names::gguf),
        _ => Ok(weights),
    }?;
    Ok(T5File { config, weights, part })
}

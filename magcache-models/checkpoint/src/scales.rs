//! Scales of fp8 weights, and what else belongs to them in a file.
//!
//! A scale multiplies: a value is its code as a float, times the scale of its tensor or row. Spellings of
//! four programs are read; `scale_input` divides activations before products in fp8, which nothing here
//! computes, and is left out. See ComfyUI's `quant_ops.py` and LightX2V's converter.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use serde::Deserialize;

use super::{
    CheckpointError,
    decode::decode,
    header::{Contents, TensorInfo},
    number::NumberFormat,
};

/// The factor of a tensor's values.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scale {
    /// One for all.
    Tensor(f32),
    /// One for each row, in the order of the file.
    Rows { all: Arc<[f32]>, own: Range<usize> },
}

impl Scale {
    /// The scale of some of the rows.
    pub(super) fn of_rows(&self, rows: Range<usize>) -> Self {
        match self {
            Self::Tensor(scale) => Self::Tensor(*scale),
            Self::Rows { all, own } => {
                Self::Rows { all: Arc::clone(all), own: own.start + rows.start..own.start + rows.end }
            }
        }
    }

    /// The scale of row `row`.
    pub(super) fn at(&self, row: usize) -> f32 {
        match self {
            Self::Tensor(scale) => *scale,
            Self::Rows { all, own } => all.get(own.start + row).copied().unwrap_or(f32::NAN),
        }
    }

    /// All of them.
    pub(super) fn values(&self) -> &[f32] {
        match self {
            Self::Tensor(scale) => std::slice::from_ref(scale),
            Self::Rows { all, own } => all.get(own.clone()).unwrap_or_default(),
        }
    }
}

/// Ends the names of scales: of old files and of new ones.
const SCALES: [&str; 2] = [".scale_weight", ".weight_scale"];

/// Ends the names of scales of activations.
const OF_INPUTS: [&str; 2] = [".scale_input", ".input_scale"];

/// Ends the name of the tensor that describes one layer.
const DESCRIPTION: &str = ".comfy_quant";

/// Names the tensor that marks old files.
const MARKER: &str = "scaled_fp8";

/// The entry of the header that describes all layers.
const DESCRIPTIONS: &str = "_quantization_metadata";

/// The formats of described layers that are read.
const FORMATS: [&str; 2] = ["float8_e4m3fn", "float8_e5m2"];

#[derive(Deserialize)]
struct Descriptions {
    #[serde(default)]
    layers: BTreeMap<String, Layer>,
}

#[derive(Deserialize)]
struct Layer {
    format: String,
}

/// Takes scales, markers and descriptions out of the tensors of a file and gives each scale to its weight.
///
/// # Errors
/// A layer in a format that is not read, a scale without its weight, of a shape that is neither a number nor
/// one for each row, or that is not finite; two scales of one weight that differ.
pub(super) fn attach(file: &str, bytes: &[u8], contents: &mut Contents) -> Result<(), CheckpointError> {
    let refused = |reason: String| CheckpointError::BadConfig { file: file.to_owned(), reason };
    for (layer, format) in formats(bytes, contents).map_err(refused)? {
        if !FORMATS.contains(&format.as_str()) {
            return Err(refused(format!(
                "layer \"{layer}\" is stored as {format}, with scales like \"{layer}.weight_scale\"; supported are {}",
                FORMATS.join(" and ")
            )));
        }
    }
    let tensors = &mut contents.tensors;
    tensors.retain(|name, _| {
        let is_marker =
            name.strip_suffix(MARKER).is_some_and(|prefix| prefix.is_empty() || prefix.ends_with('.'));
        !is_marker && !name.ends_with(DESCRIPTION) && !OF_INPUTS.iter().any(|ending| name.ends_with(ending))
    });
    let names: Vec<(String, String)> = tensors
        .keys()
        .filter_map(|name| {
            let layer = SCALES.iter().find_map(|ending| name.strip_suffix(ending))?;
            Some((name.clone(), format!("{layer}.weight")))
        })
        .collect();
    for (name, weight) in names {
        let Some(info) = tensors.remove(&name) else { continue };
        let Some(weight) = tensors.get_mut(&weight) else {
            return Err(refused(format!(
                "\"{name}\" is the scale of a tensor that is not there, \"{weight}\""
            )));
        };
        let scale = read(bytes, &info, &weight.shape)
            .map_err(|fault| refused(format!("the scale \"{name}\" {fault}")))?;
        match &weight.scale {
            Some(other) if *other != scale => {
                return Err(refused(format!(
                    "\"{name}\" is the second scale of its weight, and another one"
                )));
            }
            _ => weight.scale = Some(scale),
        }
    }
    Ok(())
}

/// The formats of the layers that the file describes: the header's before those of tensors.
fn formats(bytes: &[u8], contents: &Contents) -> Result<BTreeMap<String, String>, String> {
    let mut formats = BTreeMap::new();
    for (name, info) in &contents.tensors {
        let Some(layer) = name.strip_suffix(DESCRIPTION) else { continue };
        let text = bytes.get(info.range.clone()).unwrap_or_default();
        let Layer { format } =
            serde_json::from_slice(text).map_err(|error| format!("\"{name}\": {error}"))?;
        formats.insert(layer.to_owned(), format);
    }
    if let Some(text) = contents.metadata.text(DESCRIPTIONS) {
        let Descriptions { layers } =
            serde_json::from_str(text).map_err(|error| format!("{DESCRIPTIONS} in its header: {error}"))?;
        formats.extend(layers.into_iter().map(|(name, layer)| (name, layer.format)));
    }
    Ok(formats)
}

/// The scale in `info` for a weight of `shape`.
fn read(bytes: &[u8], info: &TensorInfo, shape: &[usize]) -> Result<Scale, String> {
    let (found, rows) = (info.shape.as_slice(), shape.first().copied().unwrap_or(1));
    let is_float = matches!(info.format, NumberFormat::F32 | NumberFormat::BF16 | NumberFormat::F16);
    let by_row = matches!(found, [n] | [n, 1] if *n == rows);
    if !is_float || !(by_row || matches!(found, [] | [1])) {
        return Err(format!(
            "is {} {found:?}, a number or one float for each of {rows} rows is read",
            info.format
        ));
    }
    let mut values = vec![0.0; info.values()];
    decode(info.format, bytes.get(info.range.clone()).unwrap_or_default(), &mut values);
    if let Some(at) = values.iter().position(|value| !value.is_finite()) {
        return Err(format!("is not finite at position {at}"));
    }
    Ok(match values.as_slice() {
        [one] => Scale::Tensor(*one),
        _ => Scale::Rows { own: 0..values.len(), all: values.into() },
    })
}

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

/// A scale that is not yet with its weight, which may be in another shard.
#[derive(Debug)]
pub(super) struct Loose {
    name: String,
    file: String,
    /// The name of its weight.
    pub(super) weight: String,
    format: NumberFormat,
    shape: Vec<usize>,
    /// Empty for formats that are no scales.
    values: Vec<f32>,
}

/// Whether a tensor of this name belongs to the scales of a file: it is no part of a network.
pub(super) fn is_beside(name: &str) -> bool {
    let is_marker =
        name.strip_suffix(MARKER).is_some_and(|prefix| prefix.is_empty() || prefix.ends_with('.'));
    let endings = OF_INPUTS.iter().chain(&SCALES).chain([&DESCRIPTION]);
    is_marker || endings.into_iter().any(|ending| name.ends_with(ending))
}

/// Takes scales, markers and descriptions out of the tensors of a file.
///
/// # Errors
/// A layer in a format that is not read; a scale that is not finite.
pub(super) fn taken(
    file: &str,
    bytes: &[u8],
    contents: &mut Contents,
) -> Result<Vec<Loose>, CheckpointError> {
    let refused = |reason: String| CheckpointError::BadConfig { file: file.to_owned(), reason };
    for (layer, format) in formats(bytes, contents).map_err(refused)? {
        if !FORMATS.contains(&format.as_str()) {
            return Err(refused(format!(
                "layer \"{layer}\" is stored as {format}, with scales like \"{layer}.weight_scale\"; supported are {}",
                FORMATS.join(" and ")
            )));
        }
    }
    let (beside, own) =
        std::mem::take(&mut contents.tensors).into_iter().partition(|(name, _)| is_beside(name));
    contents.tensors = own;
    let mut loose = Vec::new();
    for (name, info) in BTreeMap::into_iter(beside) {
        let Some(layer) = SCALES.iter().find_map(|ending| name.strip_suffix(ending)) else { continue };
        let is_float = matches!(info.format, NumberFormat::F32 | NumberFormat::BF16 | NumberFormat::F16);
        let mut values = vec![0.0; if is_float { info.values() } else { 0 }];
        decode(info.format, bytes.get(info.range.clone()).unwrap_or_default(), &mut values);
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(refused(format!("the scale \"{name}\" is not finite at position {at}")));
        }
        let (weight, file) = (format!("{layer}.weight"), file.to_owned());
        loose.push(Loose { weight, file, format: info.format, shape: info.shape, values, name });
    }
    Ok(loose)
}

impl Loose {
    /// Gives the scale to its weight, `None` if that is nowhere.
    ///
    /// # Errors
    /// No weight, a shape that is neither a number nor one for each row, or another scale of the same weight.
    pub(super) fn attach(self, weight: Option<&mut TensorInfo>) -> Result<(), CheckpointError> {
        let refused = |reason: String| CheckpointError::BadConfig { file: self.file.clone(), reason };
        let name = &self.name;
        let Some(weight) = weight else {
            let reason =
                format!("\"{name}\" is the scale of a tensor that is not there, \"{}\"", self.weight);
            return Err(refused(reason));
        };
        let rows = weight.shape.first().copied().unwrap_or(1);
        let by_row = matches!(self.shape.as_slice(), [n] | [n, 1] if *n == rows);
        let scale = match self.values.as_slice() {
            [one] if by_row || self.shape.len() < 2 => Scale::Tensor(*one),
            [_, ..] if by_row => {
                Scale::Rows { own: 0..self.values.len(), all: self.values.as_slice().into() }
            }
            _ => {
                return Err(refused(format!(
                    "the scale \"{name}\" is {} {:?}, a number or one float for each of {rows} rows is read",
                    self.format, self.shape
                )));
            }
        };
        match &weight.scale {
            Some(other) if *other != scale => {
                Err(refused(format!("\"{name}\" is the second scale of its weight, and another one")))
            }
            _ => {
                weight.scale = Some(scale);
                Ok(())
            }
        }
    }
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

//! Single files of the transformers as Black Forest Labs publish them: `flux1-dev.safetensors`, `flux1-schnell.safetensors`
//! and their siblings; those of FLUX.2 are in [`flux2::native`](crate::flux2::native).
//!
//! The modules have other names than in diffusers, projections that diffusers has one by one are one tensor, and the last
//! modulation has the shift before the scale. [`open`] gives the tensors of diffusers, which are rows of the file's: nothing
//! is copied, and every value is the same. The sizes are read off the tensors.
//!
//! Source: `convert_flux_transformer_checkpoint_to_diffusers` of diffusers 0.42.1. Differences: any width is taken, not only
//! 3072; a tensor too many is refused, because it may stand for a part of the network that would be left out silently.

mod layout;
mod table;

use std::collections::HashSet;

use candle_core::Device;

pub(crate) use self::layout::{BLOCKS, Layout, guided, heads};
use self::table::FLUX1;
use super::FluxConfig;
use crate::checkpoint::{CheckpointError, Folder, WeightDtype, Weights};
use crate::flux2::native::FLUX2;

/// Whose layout a native file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// FLUX.1: dev, schnell, Kontext, Fill and others with the same blocks.
    Flux1,
    /// FLUX.2: dev and klein.
    Flux2,
}

/// The generation of a native transformer with tensors of these names, with or without the prefix that single files have;
/// `None` for anything else, folders of diffusers included.
pub fn generation<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<Generation> {
    generation_of(&names.into_iter().collect())
}

fn generation_of(names: &HashSet<&str>) -> Option<Generation> {
    let layouts = [(&FLUX1, Generation::Flux1), (&FLUX2, Generation::Flux2)];
    layouts.into_iter().find(|(layout, _)| layout.prefix(names).is_some()).map(|(_, generation)| generation)
}

/// Tensors that a transformer of each generation has in diffusers and no other model.
const DIFFUSERS: [(&str, Generation); 2] = [
    ("single_transformer_blocks.0.proj_mlp.weight", Generation::Flux1),
    ("double_stream_modulation_img.linear.weight", Generation::Flux2),
];

/// What a file with tensors of these names is called, in either layout; `None` for other models.
pub fn recognise<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<&'static str> {
    let names: HashSet<&str> = names.into_iter().collect();
    let guided =
        names.iter().any(|name| name.contains("guidance_in.") || name.contains("guidance_embedder."));
    let (generation, native) = match generation_of(&names) {
        Some(generation) => (generation, true),
        None => (DIFFUSERS.into_iter().find(|(name, _)| names.contains(name))?.1, false),
    };
    Some(match (generation, guided, native) {
        (Generation::Flux1, true, true) => "FLUX.1 transformer with guidance (native names)",
        (Generation::Flux1, false, true) => "FLUX.1 transformer without guidance (native names)",
        (Generation::Flux2, true, true) => "FLUX.2 transformer with guidance (native names)",
        (Generation::Flux2, false, true) => "FLUX.2 transformer without guidance (native names)",
        (Generation::Flux1, true, false) => "FLUX.1 transformer with guidance",
        (Generation::Flux1, false, false) => "FLUX.1 transformer without guidance",
        (Generation::Flux2, true, false) => "FLUX.2 transformer with guidance",
        (Generation::Flux2, false, false) => "FLUX.2 transformer without guidance",
    })
}

/// The transformer in `file`, under the names of diffusers, with its sizes.
///
/// The channels of a head are shared out to the axes of positions as in the published models, 16, 56 and 56 of 128; with
/// another number, rows and columns get 7/16 each, rounded down to an even number, and the index the rest.
///
/// # Errors
/// A file that cannot be read or is not of FLUX.1; a tensor that is missing or too many, by its native name; sizes that do
/// not fit together.
pub fn open(
    folder: &Folder,
    file: &str,
    device: &Device,
    dtype: WeightDtype,
) -> Result<(FluxConfig, Weights), CheckpointError> {
    let weights = FLUX1.open(folder, file, device, dtype)?;
    let config = config(&weights)?;
    let weights = FLUX1.translate(weights, [config.num_layers, config.num_single_layers])?;
    Ok((config, weights))
}

fn config(weights: &Weights) -> Result<FluxConfig, CheckpointError> {
    let [inner, in_channels] = weights.axes("img_in.weight")?;
    let [_, joint_attention_dim] = weights.axes("txt_in.weight")?;
    let [_, pooled_projection_dim] = weights.axes("vector_in.in_layer.weight")?;
    let [out_channels, _] = weights.axes("final_layer.linear.weight")?;
    let [num_attention_heads, attention_head_dim] = heads(weights, inner)?;
    let [num_layers, num_single_layers] = BLOCKS.map(|list| weights.count(list));
    let plane = attention_head_dim * 7 / 16 / 2 * 2;
    FluxConfig {
        patch_size: 1,
        in_channels,
        out_channels,
        num_layers,
        num_single_layers,
        attention_head_dim,
        num_attention_heads,
        joint_attention_dim,
        pooled_projection_dim,
        guidance_embeds: guided(weights),
        axes_dims_rope: [attention_head_dim - 2 * plane, plane, plane],
    }
    .validated()
    .map_err(|error| CheckpointError::BadConfig { file: weights.place(), reason: error.to_string() })
}

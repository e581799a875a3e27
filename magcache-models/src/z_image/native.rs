//! Single files of the transformer: `z_image_turbo_bf16.safetensors` and its siblings, and files with the
//! names of diffusers.
//!
//! Queries, keys and values are one tensor, the first and the last layer have shorter names; nothing is
//! copied, and every value is the same. The sizes are inferred from the tensors.

use candle_core::Device;
use magcache_core::inventory;

use super::{ZImageConfig, config::PATCH};
use crate::{
    checkpoint::{
        AdapterNames, AdapterPart, CheckpointError, Folder, Mapped, WeightDtype, Weights,
        table::{Rule, look_up, rename, split},
    },
    recognise::{self, LayoutTable, Role},
};

inventory::submit! { LayoutTable(include_str!("layouts.json")) }

/// The layouts of single files with such a transformer.
pub(super) const LAYOUTS: [&str; 2] = ["z_image", "z_image_diffusers"];

const QKV: &[(&str, usize)] = &[("q", 1), ("k", 1), ("v", 1)];

/// The modules that have other names in diffusers.
const TABLE: [Rule; 15] = [
    rename("x_embedder", "all_x_embedder.2-1"),
    rename("final_layer.linear", "all_final_layer.2-1.linear"),
    rename("final_layer.adaLN_modulation.1", "all_final_layer.2-1.adaLN_modulation.1"),
    split("layers.*.attention.qkv", "layers.*.attention.to_{}", QKV),
    rename("layers.*.attention.out", "layers.*.attention.to_out.0"),
    rename("layers.*.attention.q_norm", "layers.*.attention.norm_q"),
    rename("layers.*.attention.k_norm", "layers.*.attention.norm_k"),
    split("noise_refiner.*.attention.qkv", "noise_refiner.*.attention.to_{}", QKV),
    rename("noise_refiner.*.attention.out", "noise_refiner.*.attention.to_out.0"),
    rename("noise_refiner.*.attention.q_norm", "noise_refiner.*.attention.norm_q"),
    rename("noise_refiner.*.attention.k_norm", "noise_refiner.*.attention.norm_k"),
    split("context_refiner.*.attention.qkv", "context_refiner.*.attention.to_{}", QKV),
    rename("context_refiner.*.attention.out", "context_refiner.*.attention.to_out.0"),
    rename("context_refiner.*.attention.q_norm", "context_refiner.*.attention.norm_q"),
    rename("context_refiner.*.attention.k_norm", "context_refiner.*.attention.norm_k"),
];

/// The names that adapters use besides those of diffusers.
pub const ADAPTER: AdapterNames =
    AdapterNames { family: "Z-Image", tables: &[&TABLE], part: AdapterPart::Network, encoders: &[] };

/// The transformer in `file`, under the names of diffusers, with its sizes.
///
/// What cannot be inferred from a tensor is as in the published models: the base of the rotary frequencies
/// and the epsilon of the norms. Of the channels of a head, rows and columns get three eighths each, rounded
/// down to even, and the place in the caption gets the rest.
///
/// # Errors
/// A file that cannot be read or is not of Z-Image; a tensor that is missing, unexpected or of another shape,
/// by its name in the file; sizes that do not fit together.
pub fn open(
    folder: &Folder,
    file: &str,
    device: &Device,
    dtype: WeightDtype,
) -> Result<(ZImageConfig, Weights), CheckpointError> {
    let weights = recognise::open(folder, file, Role::Transformer, device, dtype)?;
    let weights = weights
        .mapped(|name| Some(look_up(&TABLE, name).unwrap_or_else(|| Mapped::Same(name.to_owned()))))?;
    let config = config(&weights)?
        .validated()
        .map_err(|error| CheckpointError::BadConfig { file: weights.place(), reason: error.to_string() })?;
    Ok((config, weights))
}

fn config(weights: &Weights) -> Result<ZImageConfig, CheckpointError> {
    let [dim, token] = weights.axes("all_x_embedder.2-1.weight")?;
    let [cap_feat_dim] = weights.axes("cap_embedder.0.weight")?;
    let [head] = weights.axes("layers.0.attention.norm_q.weight")?;
    let heads = dim.checked_div(head).unwrap_or_default();
    let axis = 3 * head / 8 / 2 * 2;
    Ok(ZImageConfig {
        in_channels: token / (PATCH * PATCH),
        dim,
        n_layers: weights.count("layers"),
        n_refiner_layers: weights.count("noise_refiner"),
        n_heads: heads,
        n_kv_heads: heads,
        cap_feat_dim,
        axes_dims: [head - 2 * axis, axis, axis],
        axes_lens: [1536, 512, 512],
        ..ZImageConfig::default()
    })
}

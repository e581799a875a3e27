//! What the native files of both generations have in common.

use std::collections::BTreeSet;

use candle_core::Device;

use super::{Generation, recognise};
use crate::checkpoint::{
    CheckpointError, ConfigError, Folder, Mapped, WeightDtype, Weights,
    table::{Rule, look_up, rename, split, swap},
};

/// Suffix of the names of norms, which have one parameter.
const NORM: &str = "_norm";

/// The name of that parameter in the published files.
const SCALE: &str = "_norm.scale";

/// Its name in diffusers, and in some files that others derived from the published ones.
const WEIGHT: &str = "_norm.weight";

/// Lists of blocks, dual-stream and single-stream.
const BLOCKS: [&str; 2] = ["double_blocks.", "single_blocks."];

/// Modules of the guidance scale, which only guidance-distilled models have.
const GUIDANCE: &str = "guidance_in.";

/// Names of the parts of a projection that is one tensor in the file.
pub(crate) const QKV: &[(&str, usize)] = &[("q", 1), ("k", 1), ("v", 1)];

/// The modules that both generations have, mapped to those of diffusers.
pub(crate) const COMMON: [Rule; 14] = [
    rename("img_in", "x_embedder"),
    rename("txt_in", "context_embedder"),
    split("double_blocks.*.img_attn.qkv", "transformer_blocks.*.attn.to_{}", QKV),
    split("double_blocks.*.txt_attn.qkv", "transformer_blocks.*.attn.add_{}_proj", QKV),
    rename("double_blocks.*.img_attn.norm.query_norm", "transformer_blocks.*.attn.norm_q"),
    rename("double_blocks.*.img_attn.norm.key_norm", "transformer_blocks.*.attn.norm_k"),
    rename("double_blocks.*.txt_attn.norm.query_norm", "transformer_blocks.*.attn.norm_added_q"),
    rename("double_blocks.*.txt_attn.norm.key_norm", "transformer_blocks.*.attn.norm_added_k"),
    rename("double_blocks.*.img_attn.proj", "transformer_blocks.*.attn.to_out.0"),
    rename("double_blocks.*.txt_attn.proj", "transformer_blocks.*.attn.to_add_out"),
    rename("single_blocks.*.norm.query_norm", "single_transformer_blocks.*.attn.norm_q"),
    rename("single_blocks.*.norm.key_norm", "single_transformer_blocks.*.attn.norm_k"),
    rename("final_layer.linear", "proj_out"),
    // Shift, then scale: the reverse of diffusers.
    swap("final_layer.adaLN_modulation.1", "norm_out.linear"),
];

/// The native files of one generation.
pub(crate) struct Layout {
    /// The generation of these files.
    pub(crate) generation: Generation,
    /// Its other modules, mapped to those of diffusers.
    pub(crate) table: &'static [Rule],
    /// Parameters of a module that is not a norm.
    pub(crate) parameters: &'static [&'static str],
}

impl Layout {
    /// The transformer in a file under the names of diffusers, and its sizes: `config` infers them from the
    /// native tensors.
    pub(crate) fn open<C>(
        &self,
        folder: &Folder,
        file: &str,
        device: &Device,
        dtype: WeightDtype,
        config: impl Fn(&Weights) -> Result<Result<C, ConfigError>, CheckpointError>,
    ) -> Result<(C, Weights), CheckpointError> {
        let weights = self.read(folder, file, device, dtype)?;
        if blocks(&weights)[0] == 0 {
            let reason = "it has no dual-stream blocks (`double_blocks.0`), with which the network begins";
            return Err(CheckpointError::BadConfig { file: weights.place(), reason: reason.to_owned() });
        }
        let config = config(&weights)?.map_err(|error| CheckpointError::BadConfig {
            file: weights.place(),
            reason: error.to_string(),
        })?;
        Ok((config, self.translate(weights)?))
    }

    /// The transformer in a file under its native names; other parts in the same file are left out.
    fn read(
        &self,
        folder: &Folder,
        file: &str,
        device: &Device,
        dtype: WeightDtype,
    ) -> Result<Weights, CheckpointError> {
        let weights = Weights::open_files(folder, &[file], device, dtype)?;
        let Some(prefix) = self.generation.prefix(&weights.names().collect()) else {
            let found = recognise(weights.names()).unwrap_or("other tensors").to_owned();
            let expected = format!("{} (native names)", self.generation.model());
            return Err(CheckpointError::WrongArchitecture { file: weights.place(), expected, found });
        };
        weights.mapped(|name| {
            Some(match name.strip_prefix(prefix) {
                Some(name) => Mapped::Same(norm(name, WEIGHT, SCALE).unwrap_or_else(|| name.to_owned())),
                None => Mapped::Omitted,
            })
        })
    }

    /// The tensors of diffusers from the native ones. Every tensor must be present, and no other.
    fn translate(&self, weights: Weights) -> Result<Weights, CheckpointError> {
        let (guided, blocks) = (guided(&weights), blocks(&weights));
        let modules = COMMON.iter().chain(self.table).map(|rule| rule.native);
        let mut known = BTreeSet::new();
        for module in modules.filter(|module| guided || !module.starts_with(GUIDANCE)) {
            let parameters = if module.ends_with(NORM) { &["scale"] } else { self.parameters };
            let list = BLOCKS.iter().zip(blocks).find(|(list, _)| module.starts_with(**list));
            for i in 0..list.map_or(1, |(_, blocks)| blocks) {
                let module = module.replace('*', &i.to_string());
                for name in parameters.iter().map(|parameter| format!("{module}.{parameter}")) {
                    if !weights.contains(&name) {
                        return Err(weights.missing(&name));
                    }
                    known.insert(name);
                }
            }
        }
        if let Some(name) = weights.names().find(|name| !known.contains(*name)) {
            let (name, file) = (name.to_owned(), weights.place());
            return Err(CheckpointError::SurplusTensor { name, file, model: self.generation.model() });
        }
        weights.mapped(|name| {
            let norm = norm(name, SCALE, WEIGHT);
            let name = norm.as_deref().unwrap_or(name);
            look_up(&COMMON, name).or_else(|| look_up(self.table, name))
        })
    }
}

/// The name of a norm's parameter with the suffix `to` if it has the suffix `from`.
fn norm(name: &str, from: &str, to: &str) -> Option<String> {
    name.strip_suffix(from).map(|norm| format!("{norm}{to}"))
}

/// Number of dual-stream and of single-stream blocks.
pub(crate) fn blocks(weights: &Weights) -> [usize; 2] {
    BLOCKS.map(|list| weights.count(list))
}

/// Whether there is an embedder of the guidance scale, even in part.
pub(crate) fn guided(weights: &Weights) -> bool {
    weights.names().any(|name| name.starts_with(GUIDANCE))
}

/// The norm of queries in native files, as long as a head has channels.
pub(crate) const HEAD: &str = "double_blocks.0.img_attn.norm.query_norm.scale";

/// Number of heads of a model of this width, and channels of each: those of the tensor `norm`.
pub(crate) fn heads(weights: &Weights, norm: &str, width: usize) -> Result<[usize; 2], CheckpointError> {
    let [dim] = weights.axes(norm)?;
    match width.checked_div(dim).filter(|heads| heads * dim == width) {
        Some(heads) => Ok([heads, dim]),
        None => {
            let reason = format!("\"{norm}\" has {dim} values, which do not divide the width of {width}");
            Err(CheckpointError::BadConfig { file: weights.place(), reason })
        }
    }
}

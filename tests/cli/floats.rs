//! The small models with their weights in floats.

use std::{collections::HashMap, fs, path::Path};

use candle_core::{Device, Tensor};
use magcache_models::checkpoint::{Folder, WeightDtype, Weights};

use crate::program::{copy, tiny};

/// Copies an embedded Wan model with the weights of its transformer in safetensors in place of GGUF.
pub(crate) fn copy_in_floats(model: &str, to: &Path) {
    copy(&tiny(model), to);
    let transformer = to.join("transformer");
    let folder = Folder::open(&transformer).unwrap();
    let coded = Weights::open(&folder, &Device::Cpu, WeightDtype::Keep).unwrap();
    let read = |name: &str| (name.to_owned(), coded.get_f32(name, coded.shape(name).unwrap()).unwrap());
    let tensors: HashMap<String, Tensor> = coded.names().map(read).collect();
    candle_core::safetensors::save(&tensors, transformer.join("diffusion_pytorch_model.safetensors"))
        .unwrap();
    fs::remove_file(transformer.join("diffusion_pytorch_model.gguf")).unwrap();
}

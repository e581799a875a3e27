//! The small models with their weights in floats.

use std::{collections::HashMap, fs, path::Path};

use candle_core::{Device, Tensor};
use magcache_models::checkpoint::{Folder, WeightDtype, Weights};

use crate::program::{copy, tiny};

/// Copies an embedded Wan model with the weights of transformer and autoencoder in safetensors in place of
/// GGUF.
pub(crate) fn copy_in_floats(model: &str, to: &Path) {
    copy(&tiny(model), to);
    for part in ["transformer", "vae"].map(|part| to.join(part)).iter().filter(|part| part.exists()) {
        let coded = Weights::open(&Folder::open(part).unwrap(), &Device::Cpu, WeightDtype::Keep).unwrap();
        let read = |name: &str| (name.to_owned(), coded.get_f32(name, coded.shape(name).unwrap()).unwrap());
        let tensors: HashMap<String, Tensor> = coded.names().map(read).collect();
        candle_core::safetensors::save(&tensors, part.join("diffusion_pytorch_model.safetensors")).unwrap();
        fs::remove_file(part.join("diffusion_pytorch_model.gguf")).unwrap();
    }
}

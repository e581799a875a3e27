//! Reference tensors for the unit tests of the networks' modules.

use std::{collections::HashMap, path::Path};

use candle_core::{Device, Tensor};

use crate::checkpoint::{Folder, WeightDtype, Weights};

/// One case recorded with diffusers: a model, and tensors from inside its forward.
pub(crate) struct Golden<C> {
    pub(crate) config: C,
    pub(crate) weights: Weights,
    tensors: HashMap<String, Tensor>,
}

impl<C> Golden<C> {
    /// Reads a case of `tests/fixtures/golden/transformers`; `parse` parses the text of `config.json`.
    pub(crate) fn open<E: std::fmt::Debug>(case: &str, parse: impl Fn(&str) -> Result<C, E>) -> Self {
        let folder =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/golden/transformers").join(case);
        let config = std::fs::read_to_string(folder.join("config.json")).expect("config.json of the case");
        let tensors =
            candle_core::safetensors::load(folder.join("golden.safetensors"), &Device::Cpu).expect("tensors");
        let folder = Folder::open(folder).expect("folder of the case");
        Self {
            config: parse(&config).expect("a valid config.json"),
            weights: Weights::open(&folder, &Device::Cpu, WeightDtype::Keep).expect("weights of the case"),
            tensors,
        }
    }

    pub(crate) fn tensor(&self, name: &str) -> Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("no tensor {name} in the case")).clone()
    }
}

/// Fails if any value differs by more than 2e-5.
pub(crate) fn close(what: &str, got: &Tensor, want: &Tensor) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    let difference = (got - want).and_then(|d| d.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>());
    let difference = difference.expect("equal shapes");
    assert!(difference <= 2e-5, "{what}: differs by {difference}");
}

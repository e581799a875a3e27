//! From a folder to the pipeline that its `model_index.json` names.

use candle_core::Device;
use magcache_core::{inventory, nearest};
use serde::Deserialize;

use super::{Pipeline, PipelineError, Result};
use crate::checkpoint::{Folder, WeightDtype};

/// Where the weights of an expert are while another one runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offload {
    /// On the device, once they were needed there.
    #[default]
    None,
    /// In the machine's memory; on a CPU that is the device itself.
    Host,
    /// On disk, from where the memory map reads them again.
    Disk,
}

/// How a checkpoint is loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Where it computes.
    pub device: Device,
    /// How weights are kept in memory. On a CPU arithmetic is f32 in any case.
    pub dtype: WeightDtype,
    /// Where an expert waits.
    pub offload: Offload,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { device: Device::Cpu, dtype: WeightDtype::Keep, offload: Offload::None }
    }
}

/// A kind of pipeline. Registered with `inventory::submit!`; the class name in `model_index.json` selects it.
#[derive(Debug)]
pub struct Loader {
    /// `_class_name`, as diffusers writes it.
    pub class_name: &'static str,
    /// Opens a folder of that class; reads configuration files only.
    pub open: fn(Folder, LoadOptions) -> Result<Box<dyn Pipeline>>,
    /// The crate that registers it.
    pub origin: &'static str,
}

inventory::collect!(Loader);

/// A model inside the binary. Registered with `inventory::submit!`.
#[derive(Debug)]
pub struct Embedded {
    /// The name for `--model` and `model = `.
    pub name: &'static str,
    /// Its files.
    pub folder: fn() -> Folder,
}

inventory::collect!(Embedded);

#[derive(Deserialize)]
struct Index {
    #[serde(rename = "_class_name")]
    class_name: String,
}

/// Every registered kind of pipeline, by class name.
pub fn loaders() -> Vec<&'static Loader> {
    let mut all: Vec<_> = inventory::iter::<Loader>.into_iter().collect();
    all.sort_by_key(|l| l.class_name);
    all
}

/// Every model inside the binary, by name; the first is the default.
pub fn embedded() -> Vec<&'static Embedded> {
    let mut all: Vec<_> = inventory::iter::<Embedded>.into_iter().collect();
    all.sort_by_key(|e| e.name);
    all
}

/// Opens a model folder.
///
/// Errors: no `model_index.json`, a class that nothing registered, or a configuration that the pipeline refuses.
pub fn open(folder: Folder, options: LoadOptions) -> Result<Box<dyn Pipeline>> {
    let index: Index = folder.read_json("model_index.json")?;
    let known = loaders();
    match known.iter().find(|l| l.class_name == index.class_name) {
        Some(loader) => (loader.open)(folder, options),
        None => {
            let place = folder.describe_file("model_index.json");
            let message = format!("{place}: no pipeline for `_class_name` {:?}", index.class_name);
            let names: Vec<_> = known.iter().map(|l| l.class_name).collect();
            let hint = match nearest(&index.class_name, names.iter().copied()) {
                Some(nearest) => format!("the nearest one here is {nearest:?}"),
                None => format!("this build has {}", names.join(", ")),
            };
            Err(PipelineError::request(message, hint))
        }
    }
}

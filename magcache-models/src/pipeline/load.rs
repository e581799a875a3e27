//! Opening a folder with the pipeline that supports it.

use std::{path::PathBuf, sync::Arc};

use candle_core::{Device, Tensor};
use magcache_core::{error::nearest, inventory};
use serde::Deserialize;

use super::{GivenAdapter, GivenFiles, Pipeline, PipelineError, Result};
use crate::{
    blocks::{Fetcher, Residence, Traffic},
    checkpoint::{Folder, Ops, WeightDtype},
    ranks::{DataPlane, Ranks},
    recognise::Role,
};

/// Where weights are while they are not needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum Offload {
    /// On the device, after their first use.
    #[default]
    None,
    /// Those of an idle expert in the pages of its file, which stay in the machine's memory while there is
    /// room; on a CPU that memory is the device itself, and both experts stay.
    #[cfg_attr(feature = "clap", value(alias = "host"))]
    Expert,
    /// Those of an idle expert on disk, from which the memory map reads them again.
    Disk,
    /// Those of every block on disk, but for the one that runs and the next one, which is read meanwhile.
    /// Skipped blocks are not read.
    Blocks,
}

/// How a checkpoint is loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The device that computes.
    pub device: Device,
    /// How weights are kept in memory. On a CPU arithmetic is f32 in any case.
    pub dtype: WeightDtype,
    /// Where idle experts and blocks wait.
    pub offload: Offload,
    /// Whether ranks that divide the tokens divide the weights of blocks too.
    pub shard: bool,
    /// Counts what is fetched of blocks that are not kept in memory.
    pub traffic: Traffic,
    /// Whether an autoencoder works tile by tile: less memory, more work, blended seams.
    pub tile_vae: bool,
    /// The operations of the layers.
    pub ops: Ops,
    /// The ranks that the network is divided among; `None` for one.
    pub ranks: Option<Ranks>,
    /// Files in place of parts of the folder.
    pub files: GivenFiles,
    /// Adapters of the network.
    pub adapters: Vec<GivenAdapter>,
}

impl LoadOptions {
    /// Whether an expert stays on the device while another one runs.
    pub fn keeps_experts(&self) -> bool {
        match self.offload {
            Offload::None | Offload::Blocks => true,
            Offload::Expert => self.device.is_cpu(),
            Offload::Disk => false,
        }
    }

    /// How the weights of the denoising network are kept: on a device, unless something else is asked for, in
    /// half precision, as the published pipelines do.
    pub fn network_dtype(&self) -> WeightDtype {
        match self.dtype {
            WeightDtype::Auto if !self.device.is_cpu() => WeightDtype::Half,
            chosen => chosen,
        }
    }

    /// What moves tensors between the ranks that divide the tokens.
    pub fn plane(&self) -> Option<&Arc<dyn DataPlane>> {
        self.ranks.as_ref().map(Ranks::plane)
    }

    /// Where the weights of blocks are while these do not run.
    ///
    /// # Errors
    /// The system has no thread left to fetch them.
    pub fn residence(&self) -> candle_core::Result<Residence> {
        match self.ranks.as_ref().filter(|ranks| self.shard && ranks.tokens().size() > 1) {
            Some(ranks) => ranks.shards(&self.traffic),
            None if self.offload == Offload::Blocks => {
                Ok(Residence::Disk { fetcher: Fetcher::start(self.traffic.clone())? })
            }
            None => Ok(Residence::Memory),
        }
    }

    /// Tensors that are made once: by the first rank, where there are several, which sends them to the
    /// others.
    ///
    /// # Errors
    /// What `make` fails with; ranks that do not answer.
    pub fn once(&self, about: &str, make: impl FnOnce() -> Result<Vec<Tensor>>) -> Result<Vec<Tensor>> {
        match &self.ranks {
            None => make(),
            Some(ranks) => ranks.from_first(about, &self.device, make),
        }
    }
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            dtype: WeightDtype::Auto,
            offload: Offload::None,
            shard: false,
            traffic: Traffic::default(),
            tile_vae: false,
            ops: Ops::default(),
            ranks: None,
            files: GivenFiles::default(),
            adapters: Vec::new(),
        }
    }
}

/// A kind of pipeline. Registered with `inventory::submit!`; selected by the class name in `model_index.json`
/// or, in a folder without that file, by `detects`.
#[derive(Debug)]
pub struct Loader {
    /// Every `_class_name` that it opens, as written by diffusers.
    pub class_names: &'static [&'static str],
    /// Whether it opens a given folder without `model_index.json`. Looks at file names and configurations
    /// only; true for an incomplete checkpoint too, so that `open` can report what is missing.
    pub detects: fn(&Folder) -> bool,
    /// What `detects` looks for, in words; empty if it never returns true.
    pub looks_for: &'static str,
    /// The layouts of single files with a transformer that it opens, see
    /// [`Layout`](crate::recognise::Layout).
    pub layouts: &'static [&'static str],
    /// Opens such a folder; reads configuration files only.
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
    /// The prompts that it was trained on, in words for the user: a small model understands no others.
    pub prompts: &'static str,
    /// Whether it is used if no model is named.
    pub is_default: bool,
}

inventory::collect!(Embedded);

/// Where a model inside the binary has its adapters, and how their files end.
const ADAPTERS: (&str, &str) = ("lora", ".safetensors");

impl Embedded {
    /// The names of the adapters that it comes with.
    pub fn adapters(&self) -> Vec<String> {
        let files = (self.folder)().sub(ADAPTERS.0).files();
        files.iter().filter_map(|file| Some(file.strip_suffix(ADAPTERS.1)?.to_owned())).collect()
    }

    /// The path of one of them for messages, and the folder that it is in.
    pub fn adapter(&self, name: &str) -> Option<(PathBuf, Folder)> {
        let (folder, file) = ((self.folder)().sub(ADAPTERS.0), format!("{name}{}", ADAPTERS.1));
        folder.exists(&file).then(|| (folder.describe_file(&file).into(), folder))
    }
}

/// The files of a model inside the binary, from a folder of `tiny/`; paths are relative to it.
macro_rules! embedded_files {
    ($folder:literal: $($path:literal),+ $(,)?) => {
        &[$((
            $path,
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tiny/", $folder, "/", $path)).as_slice(),
        )),+]
    };
}
pub(crate) use embedded_files;

/// The file that names a diffusers pipeline's class.
const INDEX: &str = "model_index.json";

#[derive(Deserialize)]
struct Index {
    #[serde(rename = "_class_name")]
    class_name: String,
}

/// Every registered kind of pipeline, by class name.
pub fn loaders() -> Vec<&'static Loader> {
    let mut all: Vec<_> = inventory::iter::<Loader>.into_iter().collect();
    all.sort_by_key(|l| l.class_names);
    all
}

/// The model that is used if none is named.
pub fn default_model() -> Option<&'static Embedded> {
    embedded().into_iter().find(|e| e.is_default)
}

/// Every model inside the binary, by name.
pub fn embedded() -> Vec<&'static Embedded> {
    let mut all: Vec<_> = inventory::iter::<Embedded>.into_iter().collect();
    all.sort_by_key(|e| e.name);
    all
}

/// Opens a model folder.
///
/// Errors: a folder that no registered pipeline opens, or a configuration that the pipeline refuses.
pub fn open(folder: Folder, options: LoadOptions) -> Result<Box<dyn Pipeline>> {
    let folder = folder.computing_with(options.ops);
    let loaders = loaders();
    if let Some(part) = options.files.part(Role::Transformer)? {
        let reads = |loader: &&&Loader| loader.layouts.contains(&part.part.layout.name.as_str());
        return match loaders.iter().find(reads) {
            Some(loader) => (loader.open)(folder, options),
            None => {
                let message = format!("{}: no pipeline for a {}", part.place(), part.part.describe());
                let known: Vec<&str> =
                    loaders.iter().filter_map(|l| l.class_names.first().copied()).collect();
                Err(PipelineError::request(message, format!("this build has {}", known.join(", "))))
            }
        };
    }
    if let Some(loader) = chosen(&loaders, &folder)? {
        return (loader.open)(folder, options);
    }
    // A folder of loose files.
    let files = GivenFiles::in_folder(&folder)?;
    if files.transformer.is_some() && options.files.transformer.is_none() {
        let given = options.files;
        let files = GivenFiles {
            transformer: files.transformer,
            transformer_2: given.transformer_2.or(files.transformer_2),
            text_encoders: if given.text_encoders.is_empty() {
                files.text_encoders
            } else {
                given.text_encoders
            },
            image_encoder: given.image_encoder.or(files.image_encoder),
            vae: given.vae.or(files.vae),
            tokenizers: given.tokenizers,
        };
        return open(folder, LoadOptions { files, ..options });
    }
    Err(refused(&loaders, &folder)?)
}

/// The kind of pipeline that opens a folder: by the class in its `model_index.json`, or, without that file,
/// the first that recognises it. `None` if none does.
///
/// # Errors
/// A `model_index.json` that cannot be read.
pub fn loader_of(folder: &Folder) -> Result<Option<&'static Loader>> {
    chosen(&loaders(), folder)
}

fn class_of(folder: &Folder) -> Result<Option<String>> {
    Ok(if folder.exists(INDEX) { Some(folder.read_json::<Index>(INDEX)?.class_name) } else { None })
}

fn chosen<'l>(loaders: &[&'l Loader], folder: &Folder) -> Result<Option<&'l Loader>> {
    Ok(match class_of(folder)? {
        Some(class) => loaders.iter().find(|l| l.class_names.contains(&class.as_str())).copied(),
        None => loaders.iter().find(|l| (l.detects)(folder)).copied(),
    })
}

/// Why no pipeline opens the folder.
fn refused(loaders: &[&Loader], folder: &Folder) -> Result<PipelineError> {
    let classes: Vec<_> = loaders.iter().flat_map(|l| l.class_names).copied().collect();
    let Some(class) = class_of(folder)? else {
        let message = format!("{}: no pipeline recognises this folder", folder.describe());
        let looked_for = loaders.iter().map(|l| l.looks_for).filter(|what| !what.is_empty());
        let index = format!("{INDEX} of {}", classes.join(", "));
        let all: Vec<&str> = std::iter::once(index.as_str()).chain(looked_for).collect();
        return Ok(PipelineError::request(message, format!("looked for {}", all.join("; or "))));
    };
    let message = format!("{}: no pipeline for `_class_name` {class:?}", folder.describe_file(INDEX));
    let hint = match nearest(&class, classes.iter().copied()) {
        Some(nearest) => format!("the nearest one here is {nearest:?}"),
        None => format!("this build has {}", classes.join(", ")),
    };
    Ok(PipelineError::request(message, hint))
}

#[cfg(test)]
mod tests {
    use magcache_core::hint::Hint as _;

    use super::*;
    use crate::checkpoint::EmbeddedFile;

    fn never(_: Folder, _: LoadOptions) -> Result<Box<dyn Pipeline>> {
        Err(PipelineError::request("opened", ""))
    }

    const FIRST: Loader = Loader {
        class_names: &["APipeline", "BPipeline"],
        detects: |folder| folder.exists("a.pth"),
        looks_for: "a.pth",
        layouts: &[],
        open: never,
        origin: "test",
    };
    const SECOND: Loader = Loader { class_names: &["CPipeline"], detects: |_| false, looks_for: "", ..FIRST };

    #[test]
    fn a_class_selects_a_loader_and_without_one_the_files_do() {
        static A: [EmbeddedFile; 1] = [("a.pth", b"")];
        static C: [EmbeddedFile; 2] = [("a.pth", b""), (INDEX, b"{\"_class_name\": \"CPipeline\"}")];
        static B: [EmbeddedFile; 1] = [(INDEX, b"{\"_class_name\": \"BPipeline\"}")];
        let loaders = [&FIRST, &SECOND];
        let chosen =
            |files| chosen(&loaders, &Folder::embedded("f", files)).expect("readable").map(|l| l.class_names);
        assert_eq!(chosen(&A), Some(FIRST.class_names));
        assert_eq!(chosen(&B), Some(FIRST.class_names));
        assert_eq!(chosen(&C), Some(SECOND.class_names));
        assert_eq!(chosen(&[]), None);
    }

    #[test]
    fn a_folder_that_nothing_opens_is_told_what_was_looked_for() {
        static OTHER: [EmbeddedFile; 1] = [(INDEX, b"{\"_class_name\": \"CPipelin\"}")];
        let loaders = [&FIRST, &SECOND];
        let hint = |files| {
            refused(&loaders, &Folder::embedded("f", files)).expect("readable").hint().expect("a hint")
        };
        assert_eq!(hint(&[]), "looked for model_index.json of APipeline, BPipeline, CPipeline; or a.pth");
        assert_eq!(hint(&OTHER), "the nearest one here is \"CPipeline\"");
    }

    #[test]
    fn the_embedded_model_has_a_loader() {
        let loader = loader_of(&(default_model().expect("is registered").folder)())
            .expect("readable")
            .expect("is registered");
        assert!(loader.class_names.contains(&"WanPipeline"));
    }
}

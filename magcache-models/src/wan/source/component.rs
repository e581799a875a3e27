//! One network of a checkpoint.

use candle_core::Device;

use crate::{
    checkpoint::{CheckpointError, Folder, WeightDtype, Weights},
    wan::names::{self, VaeNames},
};

/// By which names the tensors of a file go.
#[derive(Clone, Copy, Debug)]
pub(super) enum Names {
    /// Those of this crate's models.
    Ours,
    Transformer,
    TextEncoder,
    Vae(VaeNames),
    ClipVision,
}

/// A configuration and the files with the tensors that belong to it.
#[derive(Clone, Debug)]
pub(super) struct Component<C> {
    pub(super) config: C,
    /// Where the configuration was read, for messages.
    pub(super) place: String,
    pub(super) folder: Folder,
    /// File names in `folder`.
    pub(super) files: Vec<String>,
    pub(super) names: Names,
}

impl<C> Component<C> {
    /// The part in a folder of its own, with `config.json` and the usual names of weight files.
    pub(super) fn in_folder(
        folder: Folder,
        read: impl FnOnce(&Folder) -> Result<C, CheckpointError>,
    ) -> Result<Self, CheckpointError> {
        let config = read(&folder)?;
        let (place, files) = (folder.describe_file("config.json"), Weights::locate(&folder)?);
        Ok(Self { config, place, folder, files, names: Names::Ours })
    }

    /// The part in a file whose tensors, under their own names, show its configuration and how they are named.
    pub(super) fn in_file(
        folder: &Folder,
        file: String,
        read: impl FnOnce(&Weights) -> Result<(C, Names), CheckpointError>,
    ) -> Result<Self, CheckpointError> {
        let weights = Weights::open_files(folder, &[&file], &Device::Cpu, WeightDtype::Keep)?;
        let (config, names) = read(&weights)?;
        let place = folder.describe_file(&file);
        Ok(Self { config, place, folder: folder.clone(), files: vec![file], names })
    }

    pub(super) fn weights(&self, device: &Device, dtype: WeightDtype) -> Result<Weights, CheckpointError> {
        let weights = Weights::open_files(&self.folder, &self.files, device, dtype)?;
        match self.names {
            Names::Ours => Ok(weights),
            Names::Transformer => weights.renamed(names::to_diffusers),
            Names::TextEncoder => weights.mapped(names::text_encoder),
            Names::Vae(version) => weights.mapped(|name| names::vae(version, name)),
            Names::ClipVision => weights.mapped(names::clip_vision),
        }
    }

    /// The configuration cannot be used.
    pub(super) fn refused(&self, reason: String) -> CheckpointError {
        CheckpointError::BadConfig { file: self.place.clone(), reason }
    }
}

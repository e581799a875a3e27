//! One network of a checkpoint.

use candle_core::Device;

use crate::{
    checkpoint::{CheckpointError, Folder, WeightDtype, Weights},
    recognise::{self, Part, Role},
    text::t5_names,
    wan::names::{self, VaeNames},
};

/// The naming of a file's tensors.
#[derive(Clone, Copy, Debug)]
pub(super) enum Names {
    /// The names of this crate's models.
    Ours,
    Transformer,
    TextEncoder,
    Vae(VaeNames),
    ClipVision,
    /// Those of llama.cpp, for text encoders.
    TextEncoderGguf,
}

/// A configuration and the files with its tensors.
#[derive(Clone, Debug)]
pub(super) struct Component<C> {
    pub(super) config: C,
    /// The origin of the configuration, for messages.
    pub(super) place: String,
    pub(super) folder: Folder,
    /// File names in `folder`.
    pub(super) files: Vec<String>,
    /// The part of the files that it is, if they hold several or add a prefix.
    pub(super) part: Option<Part>,
    pub(super) names: Names,
}

impl<C> Component<C> {
    /// A part in its own folder, with `config.json` and the usual names of weight files.
    pub(super) fn in_folder(
        folder: Folder,
        read: impl FnOnce(&Folder) -> Result<C, CheckpointError>,
    ) -> Result<Self, CheckpointError> {
        let config = read(&folder)?;
        let (place, files) = (folder.describe_file("config.json"), Weights::locate(&folder)?);
        Ok(Self { config, place, folder, files, part: None, names: Names::Ours })
    }

    /// A part in a file whose tensors, under their own names, determine its configuration and their naming;
    /// the part of the file with this role, or the whole file.
    pub(super) fn in_file(
        folder: &Folder,
        file: String,
        role: Option<Role>,
        read: impl FnOnce(&Weights) -> Result<(C, Names), CheckpointError>,
    ) -> Result<Self, CheckpointError> {
        let weights = Weights::open_files(folder, &[&file], &Device::Cpu, WeightDtype::Keep)?;
        let part = role.map(|role| recognise::part(&weights, &[role])).transpose()?;
        let weights = part.iter().try_fold(weights, |weights, part| part.take(weights))?;
        let (config, names) = read(&weights)?;
        let place = folder.describe_file(&file);
        Ok(Self { config, place, folder: folder.clone(), files: vec![file], part, names })
    }

    pub(super) fn weights(&self, device: &Device, dtype: WeightDtype) -> Result<Weights, CheckpointError> {
        let weights = Weights::open_files(&self.folder, &self.files, device, dtype)?;
        let weights = self.part.iter().try_fold(weights, |weights, part| part.take(weights))?;
        match self.names {
            Names::Ours => Ok(weights),
            Names::Transformer => weights.renamed(names::to_diffusers),
            Names::TextEncoder => weights.mapped(t5_names::native),
            Names::TextEncoderGguf => weights.mapped(t5_names::gguf),
            Names::Vae(version) => weights.mapped(|name| names::vae(version, name)),
            Names::ClipVision => weights.mapped(names::clip_vision),
        }
    }

    /// The error for a configuration that cannot be used.
    pub(super) fn refused(&self, reason: String) -> CheckpointError {
        CheckpointError::BadConfig { file: self.place.clone(), reason }
    }
}

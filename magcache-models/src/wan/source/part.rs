//! One network of a checkpoint.

use candle_core::Device;

use crate::checkpoint::{CheckpointError, Folder, WeightDtype, Weights};

/// A configuration and the files with the tensors that belong to it.
#[derive(Clone, Debug)]
pub(super) struct Part<C> {
    pub(super) config: C,
    /// Where the configuration was read, for messages.
    pub(super) place: String,
    pub(super) folder: Folder,
    /// File names in `folder`.
    pub(super) files: Vec<String>,
}

impl<C> Part<C> {
    /// The part in a folder of its own, with `config.json` and the usual names of weight files.
    pub(super) fn in_folder(
        folder: Folder,
        read: impl FnOnce(&Folder) -> Result<C, CheckpointError>,
    ) -> Result<Self, CheckpointError> {
        let config = read(&folder)?;
        let (place, files) = (folder.describe_file("config.json"), Weights::locate(&folder)?);
        Ok(Self { config, place, folder, files })
    }

    pub(super) fn weights(&self, device: &Device, dtype: WeightDtype) -> Result<Weights, CheckpointError> {
        Weights::open_files(&self.folder, &self.files, device, dtype)
    }

    /// The configuration cannot be used.
    pub(super) fn refused(&self, reason: String) -> CheckpointError {
        CheckpointError::BadConfig { file: self.place.clone(), reason }
    }
}

//! The native video autoencoders.

use super::{Component, find};
use crate::{
    autoencoder::{VideoVaeConfig, video::described},
    checkpoint::{CheckpointError, Folder, Weights},
    recognise::Role,
    wan::source::component::Names,
};

/// The autoencoder, with sizes from the shapes of its tensors, or else the one in diffusers' folder.
pub(super) fn open(folder: &Folder) -> Result<Component<VideoVaeConfig>, CheckpointError> {
    let other = folder.sub("vae");
    let file = match find(folder, |name| name.starts_with("Wan") && name.ends_with("_VAE"), "Wan2.1_VAE.pth")
    {
        Err(_) if other.exists("config.json") => return Component::in_folder(other, VideoVaeConfig::read),
        file => file?,
    };
    Component::in_file(folder, file, None, sized)
}

/// The autoencoder in a single file, whatever else is in it.
pub(super) fn open_file(folder: &Folder, file: &str) -> Result<Component<VideoVaeConfig>, CheckpointError> {
    Component::in_file(folder, file.to_owned(), Some(Role::Vae), sized)
}

fn sized(weights: &Weights) -> Result<(VideoVaeConfig, Names), CheckpointError> {
    let (config, names) = described(weights)?;
    Ok((config, Names::Vae(names)))
}

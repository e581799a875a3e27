"""Latents as the speech-to-video transformer sees them."""

import torch


def statistics(vae):
    """The latents' mean and deviation in the autoencoder's config, each [1, channels, 1, 1, 1]."""
    shape = (1, vae.config.z_dim, 1, 1, 1)
    mean, std = torch.tensor(vae.config.latents_mean), torch.tensor(vae.config.latents_std)
    return mean.view(shape).to(vae.device), std.view(shape).to(vae.device)


@torch.no_grad()
def encode(vae, pixels):
    """Normalised latents of ``pixels`` [batch, 3, frames, height, width]."""
    mean, std = statistics(vae)
    return (vae.encode(pixels.to(vae.device)).latent_dist.mode() - mean) / std

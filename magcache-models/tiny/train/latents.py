"""Encode training videos once, so that the transformers train on latents.

    python latents.py --vae ../wan2.1-t2v-tiny/vae --videos 8000 --out work/latents.pt

The file holds ``latents`` and ``conditions`` [videos, 8, 5, 16, 16], normalised by the autoencoder's config, and
``prompts``. A condition is what the image-to-video pipeline encodes: the first frame, then frames of zeros.
"""

import argparse

import torch
from diffusers import AutoencoderKLWan
from shapes import random_videos

CHUNK = 8


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


def first_frame_only(pixels):
    """The video with every frame but the first set to zero."""
    kept = torch.zeros_like(pixels)
    kept[:, :, 0] = pixels[:, :, 0]
    return kept


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae", default="../wan2.1-t2v-tiny/vae", help="folder of the autoencoder")
    parser.add_argument("--videos", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", default="work/latents.pt")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(args.seed)
    vae = AutoencoderKLWan.from_pretrained(args.vae).eval().to(args.device)
    latents, conditions, prompts = [], [], []
    for _ in range(0, args.videos, CHUNK):
        pixels, sentences = random_videos(CHUNK, generator)
        latents.append(encode(vae, pixels).half().cpu())
        conditions.append(encode(vae, first_frame_only(pixels)).half().cpu())
        prompts += sentences
    pool = {"latents": torch.cat(latents), "conditions": torch.cat(conditions), "prompts": prompts}
    torch.save(pool, args.out)
    print(f"{len(prompts)} videos, latent deviation {pool['latents'].float().std():.3f}")


if __name__ == "__main__":
    main()

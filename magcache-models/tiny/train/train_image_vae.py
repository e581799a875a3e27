"""Train the picture autoencoder of the Flux model (AutoencoderKL, 4x in space, 8 latent channels).

    python train_image_vae.py --out work/image-vae
"""

import argparse

import torch
from diffusers import AutoencoderKL
from fit import add_loop_arguments, fit
from shapes import random_images

LATENT_CHANNELS = 8


def new_vae():
    """Flux's autoencoder (no quantisation convolutions) at a small width."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 48),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=64,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


@torch.no_grad()
def set_scaling(vae, generator, pictures=512):
    """Record the latents' mean and deviation as the config's ``shift_factor`` and ``scaling_factor``."""
    pixels, _ = random_images(pictures, generator)
    latents = torch.cat([vae.encode(p.to(vae.device)).latent_dist.mode() for p in pixels.split(32)])
    vae.register_to_config(
        shift_factor=round(latents.mean().item(), 6), scaling_factor=round(1 / latents.std().item(), 6)
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add_loop_arguments(parser, steps=20000, batch=16, lr=2e-3)
    parser.add_argument("--out", default="work/image-vae")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    vae = new_vae().to(args.device)

    def loss_fn():
        pixels = random_images(args.batch, generator)[0].to(args.device)
        latents = vae.encode(pixels).latent_dist.mode()
        # Noise keeps the latents' code smooth; the pull to zero keeps their scale.
        noisy = latents + 0.05 * torch.randn_like(latents)
        error = vae.decode(noisy).sample - pixels
        return error.abs().mean() + error.square().mean() + 1e-4 * latents.square().mean()

    fit(vae, loss_fn, args, ema_decay=0.995)
    set_scaling(vae, generator)
    vae.save_pretrained(args.out)


if __name__ == "__main__":
    main()

"""Train the autoencoder of the speech-to-video model (AutoencoderKLWan, 4x in time and in space, 8 latent channels).

    python train_video_vae.py --out work/video-vae
    python train_video_vae.py --out work/sharper --init work/video-vae --decoder-only --lr 7e-4

The second form keeps the latents as they are, so that transformers trained on them stay valid.
"""

import argparse

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from fit import add_loop_arguments, fit
from shapes import random_videos

LATENT_CHANNELS = 8


def new_vae():
    """Wan's causal autoencoder at base width 16, without attention."""
    return AutoencoderKLWan(
        base_dim=16,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 3],
        num_res_blocks=1,
        attn_scales=[],
        temperal_downsample=[True, True],
        dropout=0.0,
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
        scale_factor_spatial=4,
        scale_factor_temporal=4,
    )


@torch.no_grad()
def set_statistics(vae, generator, videos=256):
    """Record each latent channel's mean and deviation in the config."""
    chunks = [random_videos(8, generator).to(vae.device) for _ in range(0, videos, 8)]
    latents = torch.cat([vae.encode(pixels).latent_dist.mode() for pixels in chunks])
    mean, std = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
    vae.register_to_config(
        latents_mean=[round(x, 6) for x in mean.tolist()], latents_std=[round(x, 6) for x in std.tolist()]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_loop_arguments(parser, steps=20000, batch=8, lr=2e-3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", required=True)
    parser.add_argument("--init", help="autoencoder folder to start from")
    parser.add_argument("--decoder-only", action="store_true", help="with --init: leave the encoder as it is")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    vae = AutoencoderKLWan.from_pretrained(args.init) if args.init else new_vae()
    vae.to(args.device)
    if args.decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    last_error = None

    def loss_fn():
        nonlocal last_error
        pixels = random_videos(args.batch, generator).to(args.device)
        latents = vae.encode(pixels).latent_dist.mode()
        # Noise keeps the latents' code smooth; the pull to zero keeps their scale.
        noisy = latents + 0.05 * torch.randn_like(latents)
        error = vae.decode(noisy).sample - pixels
        last_error = error.detach().square().mean().item()
        return error.abs().mean() + error.square().mean() + 1e-4 * latents.square().mean()

    def report(loss):
        return f"loss {loss:.4f}, last batch {10 * np.log10(4 / last_error):.2f} dB"

    fit(vae, loss_fn, args, ema_decay=0.995, report=report)
    if not args.decoder_only:
        set_statistics(vae, generator)
    vae.save_pretrained(args.out)


if __name__ == "__main__":
    main()

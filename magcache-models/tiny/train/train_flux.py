"""Train the small Flux transformer (FluxTransformer2DModel) on drawn still pictures, then distil guidance into it.

    python train_flux.py --out work/flux --vae work/image-vae
    python train_flux.py --out work/flux-guided --vae work/image-vae --init work/flux --distil --steps 10000 --lr 5e-4

The first run is plain flow matching with the guidance input at 1. The second teaches a copy to give, for a guidance
input g, what classifier-free guidance with scale g makes of two evaluations of the first.
"""

import argparse
import copy
import os

import torch
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from fit import add_loop_arguments, fit, noise_levels
from shapes import random_images
from text import MAX_LENGTH, WIDTH, encode_flux, new_clip, new_t5

SHIFT = 1.6  # the shift that Flux's schedule has for 64 image tokens
UNCONDITIONAL_PROBABILITY = 0.1
GUIDANCE_RANGE = (1.0, 5.0)


def new_transformer(latent_channels):
    """Two dual-stream and four single-stream blocks of width 96, 1.3 million parameters."""
    return FluxTransformer2DModel(
        in_channels=4 * latent_channels,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=32,
        num_attention_heads=3,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(8, 12, 12),
    )


class Pictures:
    """Encoded pictures and text features to draw training batches from."""

    @torch.no_grad()
    def __init__(self, vae, clip, t5, count, generator, chunk=64):
        config = vae.config
        latents, prompts = [], []
        for _ in range(0, count, chunk):
            pixels, sentences = random_images(chunk, generator)
            encoded = vae.encode(pixels.to(vae.device)).latent_dist.mode()
            latents.append((encoded - config.shift_factor) * config.scaling_factor)
            prompts += sentences
        latents = torch.cat(latents)
        batch, channels, height, width = latents.shape
        self.tokens = FluxPipeline._pack_latents(latents, batch, channels, height, width)
        self.pooled, self.text = encode_flux(clip, t5, prompts)
        self.no_pooled, self.no_text = encode_flux(clip, t5, [""])
        self.image_ids = FluxPipeline._prepare_latent_image_ids(1, height // 2, width // 2, vae.device, torch.float32)
        self.text_ids = torch.zeros(MAX_LENGTH, 3, device=vae.device)

    def batch(self, size):
        """Clean tokens [size, tokens, channels], pooled and sequence text features of random pictures."""
        rows = torch.randint(len(self.tokens), (size,), device=self.tokens.device)
        return self.tokens[rows], self.pooled[rows], self.text[rows]

    def velocity(self, transformer, noisy, sigma, guidance, pooled, text):
        """The transformer's prediction, shaped as ``noisy``."""
        return transformer(
            hidden_states=noisy,
            timestep=sigma,
            guidance=guidance,
            pooled_projections=pooled,
            encoder_hidden_states=text,
            txt_ids=self.text_ids,
            img_ids=self.image_ids,
            return_dict=False,
        )[0]


def matching_loss(transformer, pictures, size):
    """Flow matching with the text left out now and then, at guidance 1."""
    clean, pooled, text = pictures.batch(size)
    drop = torch.rand(size, 1, device=clean.device) < UNCONDITIONAL_PROBABILITY
    pooled = torch.where(drop, pictures.no_pooled, pooled)
    text = torch.where(drop[..., None], pictures.no_text, text)
    noise, sigma = torch.randn_like(clean), noise_levels(size, SHIFT, clean.device)
    noisy = torch.lerp(clean, noise, sigma.view(-1, 1, 1))
    velocity = pictures.velocity(transformer, noisy, sigma, torch.ones_like(sigma), pooled, text)
    return (velocity - (noise - clean)).square().mean()


def distillation_loss(transformer, teacher, pictures, size):
    """Distance to the teacher's guided prediction at a random guidance scale."""
    clean, pooled, text = pictures.batch(size)
    noise, sigma = torch.randn_like(clean), noise_levels(size, SHIFT, clean.device)
    noisy = torch.lerp(clean, noise, sigma.view(-1, 1, 1))
    low, high = GUIDANCE_RANGE
    scale = low + (high - low) * torch.rand_like(sigma)
    with torch.no_grad():
        both = pictures.velocity(
            teacher,
            noisy.repeat(2, 1, 1),
            sigma.repeat(2),
            torch.ones_like(sigma).repeat(2),
            torch.cat([pooled, pictures.no_pooled.expand_as(pooled)]),
            torch.cat([text, pictures.no_text.expand_as(text)]),
        )
        conditional, unconditional = both.chunk(2)
        target = torch.lerp(unconditional, conditional, scale.view(-1, 1, 1))
    return (pictures.velocity(transformer, noisy, sigma, scale, pooled, text) - target).square().mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_loop_arguments(parser, steps=30000, batch=32, lr=1e-3)
    parser.add_argument("--out", required=True, help="receives transformer/, text_encoder/ and text_encoder_2/")
    parser.add_argument("--vae", default="work/image-vae")
    parser.add_argument("--init", help="an earlier --out to start from")
    parser.add_argument("--distil", action="store_true", help="with --init: distil guidance into a copy of it")
    parser.add_argument("--pictures", type=int, default=20000)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    vae = AutoencoderKL.from_pretrained(args.vae).eval().to(args.device)
    clip, t5 = new_clip(), new_t5()
    transformer = new_transformer(vae.config.latent_channels)
    if args.init:
        transformer = transformer.from_pretrained(os.path.join(args.init, "transformer"))
        clip = clip.from_pretrained(os.path.join(args.init, "text_encoder")).eval()
        t5 = t5.from_pretrained(os.path.join(args.init, "text_encoder_2")).eval()
    for model in (transformer, clip, t5):
        model.to(args.device)
    generator = torch.Generator().manual_seed(args.seed)
    pictures = Pictures(vae, clip, t5, args.pictures, generator)

    if args.distil:
        teacher = copy.deepcopy(transformer).requires_grad_(False)
        fit(transformer, lambda: distillation_loss(transformer, teacher, pictures, args.batch), args, ema_decay=0.9995)
    else:
        fit(transformer, lambda: matching_loss(transformer, pictures, args.batch), args, ema_decay=0.9995)

    transformer.save_pretrained(os.path.join(args.out, "transformer"))
    clip.save_pretrained(os.path.join(args.out, "text_encoder"))
    t5.save_pretrained(os.path.join(args.out, "text_encoder_2"))


if __name__ == "__main__":
    main()

"""Train the Flux transformer (FluxTransformer2DModel) and its text encoders on pictures, then distil guidance into it.

    python train_flux.py --out work/flux --latents work/pictures
    python train_flux.py --out work/guided --latents work/pictures --init work/flux --distil --lr 3e-4

The first run is flow matching with the guidance input at 1. The second teaches a copy to give, for a guidance input g, what
classifier-free guidance with scale g makes of two evaluations of the first.
"""

import argparse
from pathlib import Path

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from latents import Pool
from loop import add_loop_arguments, fit, noise_levels, prepare
from text import MAX_LENGTH, WIDTH, dropped, encode_flux, new_clip, new_t5
from transformers import CLIPTextModel, T5EncoderModel

SHIFT = 1.6  # the shift that Flux's schedule has for 64 image tokens
GUIDANCE_RANGE = (1.0, 5.0)


def new_transformer(channels):
    """Two dual-stream and four single-stream blocks of width 128, 2.4 million parameters."""
    return FluxTransformer2DModel(
        in_channels=4 * channels, num_layers=2, num_single_layers=4, attention_head_dim=32, num_attention_heads=4,
        joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH, guidance_embeds=True, axes_dims_rope=(8, 12, 12),
    )  # fmt: skip


class Model:
    """The transformer with its two text encoders, all trained, or read from an earlier ``--out``."""

    def __init__(self, init, channels):
        self.transformer, self.clip, self.t5 = new_transformer(channels), new_clip(), new_t5()
        if init:
            folder = Path(init)
            self.transformer = FluxTransformer2DModel.from_pretrained(folder / "transformer")
            self.clip = CLIPTextModel.from_pretrained(folder / "text_encoder")
            self.t5 = T5EncoderModel.from_pretrained(folder / "text_encoder_2")

    def parts(self):
        return [self.transformer, self.clip, self.t5]

    def velocity(self, noisy, sigma, guidance, ids):
        """The prediction for latents [batch, channels, height, width], in their shape."""
        batch, channels, height, width = noisy.shape
        pooled, text = encode_flux(self.clip, self.t5, ids)
        tokens = self.transformer(
            hidden_states=FluxPipeline._pack_latents(noisy, batch, channels, height, width),
            timestep=sigma,
            guidance=guidance,
            pooled_projections=pooled,
            encoder_hidden_states=text,
            txt_ids=torch.zeros(MAX_LENGTH, 3, device=noisy.device),
            img_ids=FluxPipeline._prepare_latent_image_ids(1, height // 2, width // 2, noisy.device, noisy.dtype),
            return_dict=False,
        )[0]
        # The inverse of packing 2x2 latents into a token.
        tokens = tokens.view(batch, height // 2, width // 2, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return tokens.reshape(batch, channels, height, width).float()

    def save(self, out):
        for part, name in zip(self.parts(), ("transformer", "text_encoder", "text_encoder_2")):
            part.save_pretrained(out / name)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_loop_arguments(parser, steps=20000, batch=32, lr=6e-3, ema=0.999, muon=True)
    parser.add_argument("--latents", required=True)
    parser.add_argument("--compile", action="store_true", help="the transformer by torch.compile: two thirds of the time")
    parser.add_argument("--init", help="an earlier --out to start from")
    parser.add_argument("--distil", action="store_true", help="with --init: distil guidance into a copy of it")
    parser.add_argument("--drop-text", type=float, default=0.1, help="how often a prompt is left out")
    parser.add_argument("--freeze-text", action="store_true", help="leave the text encoders as they are")
    args = parser.parse_args()
    generator = prepare(args)
    pool = Pool(args.latents, args.device)
    channels = pool.latents.shape[1]
    model, teacher = Model(args.init, channels), Model(args.init, channels) if args.distil else None
    for part in model.parts() + (teacher.parts() if teacher else []):
        part.to(args.device)
    for each in [model, teacher] if teacher else [model]:
        if args.compile:
            each.transformer.compile()
    for part in model.parts()[1:] if args.freeze_text or args.distil else []:
        part.requires_grad_(False)

    def loss_fn():
        rows = pool.rows(args.batch)
        clean, ids, mask = pool.latents[rows].float(), pool.ids[rows], pool.mask[rows]
        noise = torch.randn(clean.shape).to(args.device)
        sigma = noise_levels(args.batch, SHIFT).to(args.device)
        noisy = torch.lerp(clean, noise, sigma.view(-1, 1, 1, 1))
        one = torch.ones_like(sigma)
        if not args.distil:
            ids, _ = dropped(ids, mask, args.drop_text)
            target, scale = noise - clean, one
        else:
            low, high = GUIDANCE_RANGE
            scale = low + (high - low) * torch.rand(args.batch).to(args.device)
            with torch.no_grad():
                conditional = teacher.velocity(noisy, sigma, one, ids)
                unconditional = teacher.velocity(noisy, sigma, one, dropped(ids, mask, 1.0)[0])
                target = torch.lerp(unconditional, conditional, scale.view(-1, 1, 1, 1))
        return (model.velocity(noisy, sigma, scale, ids) - target).square().mean(), {}

    fit(model.parts(), loss_fn, args, generator, lambda: model.save(args.out))


if __name__ == "__main__":
    main()

"""Train a Wan transformer (WanTransformer3DModel) and its text encoder by flow matching on the latents of clips.

    python train_wan.py --latents work/stills --out work/stills-only
    python train_wan.py --latents work/clips --out work/t2v --init work/stills-only
    python train_wan.py --latents work/clips --out work/high --init work/t2v --freeze-text --shift 12 --sigma-min 0.875
    python train_wan.py --latents work/clips --out work/low --init work/t2v --freeze-text --shift 12 --sigma-max 0.875
    python train_wan.py --latents work/clips --out work/i2v --init work/t2v --freeze-text --image

Clips of one frame, text to video, the experts of high and of low noise, image to video. A clip of one frame has a fifth
of the tokens, and teaches how things look; clips then teach how they move.

The experts and image to video share the text encoder of text to video.
"""

import argparse
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from latents import Pool
from loop import add_loop_arguments, fit, noise_levels, prepare
from text import WIDTH, dropped, encode_wan, new_umt5
from transformers import UMT5EncoderModel

CHANNELS = 16
MASK_CHANNELS = 4  # frames per latent frame
BLOCKS = 6


def new_transformer(image=False):
    """Six blocks of width 128, 1.6 million parameters.

    With ``image`` in the input form of Wan2.2 I2V A14B: 16 + 4 + 16 channels.
    """
    return WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=4, attention_head_dim=32, out_channels=CHANNELS,
        in_channels=2 * CHANNELS + MASK_CHANNELS if image else CHANNELS, text_dim=WIDTH, freq_dim=64, ffn_dim=384,
        num_layers=BLOCKS, cross_attn_norm=True, qk_norm="rms_norm_across_heads", rope_max_seq_len=64,
    )  # fmt: skip


def load_transformer(folder, image):
    """A transformer to start from; with ``image`` its patch embedding gains zero weights for the condition channels."""
    source = WanTransformer3DModel.from_pretrained(folder)
    model = new_transformer(image)
    weights = source.state_dict()
    if source.config.in_channels != model.config.in_channels:
        old, wide = weights["patch_embedding.weight"], model.patch_embedding.weight
        weights["patch_embedding.weight"] = torch.zeros_like(wide)
        weights["patch_embedding.weight"][:, :CHANNELS] = old
    model.load_state_dict(weights)
    return model


def image_condition(first):
    """Mask and encoded first frame, [batch, 4 + 16, latent frames, height, width], in the pipeline's channel order.

    The mask is one at the frame that is given. A latent frame stands for four frames, the first for one frame only,
    so its mask is repeated four times.
    """
    mask = first.new_zeros(first.shape[0], MASK_CHANNELS, *first.shape[2:])
    mask[:, :, 0] = 1
    return torch.cat([mask, first], 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_loop_arguments(parser, steps=30000, batch=16, lr=6e-3, ema=0.999, muon=True)
    parser.add_argument("--latents", required=True)
    parser.add_argument("--compile", action="store_true", help="the transformer by torch.compile: two thirds of the time")
    parser.add_argument("--init", help="an earlier --out to start from")
    parser.add_argument("--image", action="store_true", help="train the image-to-video form")
    parser.add_argument("--shift", type=float, default=3.0, help="flow shift of the training noise levels")
    parser.add_argument("--sigma-min", type=float, default=0.0, help="train on noise levels above this")
    parser.add_argument("--sigma-max", type=float, default=1.0, help="train on noise levels below this")
    parser.add_argument("--drop-text", type=float, default=0.1, help="how often a prompt is left out")
    parser.add_argument("--freeze-text", action="store_true", help="leave the text encoder as it is")
    args = parser.parse_args()
    generator = prepare(args)
    pool = Pool(args.latents, args.device, first=args.image)
    if args.init:
        init = Path(args.init)
        transformer = load_transformer(init / "transformer", args.image)
        text_encoder = UMT5EncoderModel.from_pretrained(init / "text_encoder")
    else:
        transformer, text_encoder = new_transformer(args.image), new_umt5()
    text_encoder.requires_grad_(not args.freeze_text)
    if args.compile:
        transformer.compile()
    models = [transformer.to(args.device), text_encoder.to(args.device)]

    def loss_fn():
        rows = pool.rows(args.batch)
        clean = pool.latents[rows].float()
        text = encode_wan(text_encoder, *dropped(pool.ids[rows], pool.mask[rows], args.drop_text))
        noise = torch.randn(clean.shape).to(args.device)
        sigma = noise_levels(args.batch, args.shift, args.sigma_min, args.sigma_max).to(args.device)
        noisy = torch.lerp(clean, noise, sigma.view(-1, 1, 1, 1, 1))
        if args.image:
            noisy = torch.cat([noisy, image_condition(pool.first[rows].float())], 1)
        velocity = transformer(noisy, sigma * 1000, text, return_dict=False)[0]
        return (velocity - (noise - clean)).square().mean(), {}

    def save_models():
        transformer.save_pretrained(args.out / "transformer")
        text_encoder.save_pretrained(args.out / "text_encoder")

    fit(models, loss_fn, args, generator, save_models)


if __name__ == "__main__":
    main()

"""Train a small Wan transformer (WanTransformer3DModel) by flow matching on the latents that latents.py wrote.

    text to video        python train_wan.py --out work/t2v
    high-noise expert    python train_wan.py --out work/high --init ../wan2.1-t2v-tiny/transformer --lr 3e-4 \\
                             --shift 12 --sigma-min 0.875
    low-noise expert     python train_wan.py --out work/low --init ../wan2.1-t2v-tiny/transformer --lr 3e-4 \\
                             --shift 12 --sigma-max 0.875
    image to video       python train_wan.py --out work/i2v --init ../wan2.1-t2v-tiny/transformer --image
"""

import argparse

import torch
from diffusers import WanTransformer3DModel
from fit import add_loop_arguments, fit, noise_levels
from text import WIDTH, encode_wan
from transformers import UMT5EncoderModel

LATENT_CHANNELS = 8
MASK_CHANNELS = 4  # frames per latent frame
UNCONDITIONAL_PROBABILITY = 0.1


def new_transformer(in_channels=LATENT_CHANNELS):
    """Six blocks of width 128, 1.5 million parameters."""
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=in_channels,
        out_channels=LATENT_CHANNELS,
        text_dim=WIDTH,
        freq_dim=64,
        ffn_dim=384,
        num_layers=6,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=64,
    )


def load_transformer(folder, image):
    """A transformer to start from; with ``image`` its patch embedding gains zero weights for the condition channels."""
    source = WanTransformer3DModel.from_pretrained(folder, torch_dtype=torch.float32)
    in_channels = LATENT_CHANNELS + MASK_CHANNELS + LATENT_CHANNELS
    if not image or source.config.in_channels == in_channels:
        return source
    weights = source.state_dict()
    old = weights["patch_embedding.weight"]
    weights["patch_embedding.weight"] = old.new_zeros(old.shape[0], in_channels, *old.shape[2:])
    weights["patch_embedding.weight"][:, :LATENT_CHANNELS] = old
    model = new_transformer(in_channels)
    model.load_state_dict(weights)
    return model


def image_condition(encoded):
    """Mask and encoded first frame, [batch, 4 + 8, latent frames, height, width], in the pipeline's channel order.

    The mask is one at the frame that is given. A latent frame stands for four frames, the first for one frame only,
    so its mask is repeated four times.
    """
    mask = encoded.new_zeros(encoded.shape[0], MASK_CHANNELS, *encoded.shape[2:])
    mask[:, :, 0] = 1
    return torch.cat([mask, encoded], 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_loop_arguments(parser, steps=30000, batch=32, lr=1e-3)
    parser.add_argument("--out", required=True)
    parser.add_argument("--latents", default="work/latents.pt")
    parser.add_argument("--text-encoder", default="../wan2.1-t2v-tiny/text_encoder")
    parser.add_argument("--init", help="transformer folder to start from")
    parser.add_argument("--image", action="store_true", help="train the image-to-video form")
    parser.add_argument("--shift", type=float, default=3.0, help="flow shift of the training noise levels")
    parser.add_argument("--sigma-min", type=float, default=0.0, help="train on noise levels above this")
    parser.add_argument("--sigma-max", type=float, default=1.0, help="train on noise levels below this")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    device = args.device

    pool = torch.load(args.latents)
    latents, conditions = pool["latents"].to(device), pool["conditions"].to(device)
    text_encoder = UMT5EncoderModel.from_pretrained(args.text_encoder).eval().to(device)
    features = encode_wan(text_encoder, pool["prompts"])
    no_text = encode_wan(text_encoder, [""])
    if args.init:
        transformer = load_transformer(args.init, args.image).to(device)
    else:
        transformer = new_transformer(20 if args.image else LATENT_CHANNELS).to(device)

    def loss_fn():
        rows = torch.randint(len(latents), (args.batch,), device=device)
        drop = torch.rand(args.batch, 1, 1, device=device) < UNCONDITIONAL_PROBABILITY
        text = torch.where(drop, no_text, features[rows])
        clean = latents[rows].float()
        noise = torch.randn_like(clean)
        sigma = noise_levels(args.batch, args.shift, device, args.sigma_min, args.sigma_max)
        level = sigma.view(-1, 1, 1, 1, 1)
        noisy = (1 - level) * clean + level * noise
        if args.image:
            noisy = torch.cat([noisy, image_condition(conditions[rows].float())], 1)
        velocity = transformer(noisy, sigma * 1000, text, return_dict=False)[0]
        return (velocity - (noise - clean)).square().mean()

    new = transformer.patch_embedding.parameters() if args.image and args.init else ()
    fit(transformer, loss_fn, args, ema_decay=0.9995, new=list(new))
    transformer.save_pretrained(args.out)


if __name__ == "__main__":
    main()

"""Train the autoencoders, 8x in space, 4x in time, 16 latent channels, on parts of drawn clips.

    python autoencoder.py image --out work/image-vae              # AutoencoderKL, as in FLUX
    python autoencoder.py still --out work/video-vae-still        # AutoencoderKLWan, as in Wan 2.2: pictures first
    python autoencoder.py video --out work/video-vae-5 --init work/video-vae-still --frames 5
    python autoencoder.py video --out work/video-vae --init work/video-vae-5 --batch 2
    python autoencoder.py test  --model work/video-vae            # dB over whole clips of held-out looks

A causal autoencoder of videos sees a single frame as a picture, so it learns pictures first, which is cheaper, and then
clips: what it learned on parts of five frames fails on longer ones, where every convolution remembers more.
"""

import argparse
import math
from pathlib import Path

import eight_bits
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
from draw import crops, whole_clips
from loop import add_loop_arguments, fit, prepare
from world import FRAMES, SIZE, random_scenes

CHANNELS = 16
CROP = 64
CHUNK = 8
# By how much latents are disturbed before decoding: it keeps their code smooth.
LATENT_NOISE = 0.05


def new_image():
    """Flux's autoencoder (no quantisation convolutions) at a small width, 0.6 million parameters."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 48, 48), layers_per_block=1, latent_channels=CHANNELS, norm_num_groups=8,
        sample_size=SIZE, use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip


def new_video():
    """The residual autoencoder of Wan 2.2 on patches of 2x2 pixels, with one halving less: 1.5 million parameters."""
    return AutoencoderKLWan(
        base_dim=24, z_dim=CHANNELS, dim_mult=[1, 2, 2], num_res_blocks=1, attn_scales=[],
        temperal_downsample=[True, True], dropout=0.0, is_residual=True, patch_size=2, in_channels=12,
        out_channels=12, scale_factor_spatial=8, scale_factor_temporal=4, latents_mean=[0.0] * CHANNELS,
        latents_std=[1.0] * CHANNELS,
    )  # fmt: skip


def causal_conv(self, x, cache_x=None, slow=WanCausalConv3d.forward):
    """The same convolution; of a first frame, whose past is zero, in two dimensions at a third of the cost."""
    width, _, height, _, past, _ = self._padding
    if past == 0 or cache_x is not None or x.shape[2] > 1:
        return slow(self, x, cache_x)
    return F.conv2d(x[:, :, 0], self.weight[:, :, -1], self.bias, self.stride[1:], (height, width))[:, :, None]


WanCausalConv3d.forward = causal_conv


def load(folder):
    """An autoencoder of either kind."""
    kind = AutoencoderKLWan if "Wan" in (Path(folder) / "config.json").read_text() else AutoencoderKL
    in_eight_bits = (Path(folder) / eight_bits.FILE).exists()
    return eight_bits.load(kind, Path(folder)) if in_eight_bits else kind.from_pretrained(folder)


def decibels(error):
    """PSNR of a mean squared error of pixels in [-1, 1]."""
    return 10 * math.log10(4 / float(error))


@torch.no_grad()
def set_statistics(vae, clips=64):
    """Record each latent channel's mean and deviation (of pictures, those of all channels) in the config."""
    scenes = random_scenes(clips, torch.Generator().manual_seed(7))
    parts = [whole_clips(scenes[torch.arange(i, i + CHUNK)]) for i in range(0, clips, CHUNK)]
    if isinstance(vae, AutoencoderKL):
        latents = torch.cat([vae.encode(part[:, :, 8].to(vae.device)).latent_dist.mode() for part in parts])
        vae.register_to_config(
            shift_factor=round(latents.mean().item(), 6), scaling_factor=round(1 / latents.std().item(), 6)
        )
        return
    latents = torch.cat([vae.encode(part.to(vae.device)).latent_dist.mode() for part in parts])
    mean, std = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
    vae.register_to_config(
        latents_mean=[round(x, 6) for x in mean.tolist()], latents_std=[round(x, 6) for x in std.tolist()]
    )


@torch.no_grad()
def test(folder, clips=32):
    """Mean dB of whole clips (or their middle frames) with objects that training never shows, and of the worst one."""
    vae = load(folder).eval()
    scenes, values = random_scenes(clips, torch.Generator().manual_seed(123), unseen=True), []
    for row in range(clips):
        pixels = whole_clips(scenes[torch.tensor([row])])
        pixels = pixels[:, :, 8] if isinstance(vae, AutoencoderKL) else pixels
        decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1)
        values.append(decibels((decoded - pixels).square().mean()))
    print(f"{folder}: {sum(values) / clips:.2f} dB, worst of {clips} {min(values):.2f} dB")


def train(args):
    generator = prepare(args)
    vae = load(args.init) if args.init else new_image() if args.kind == "image" else new_video()
    vae.to(args.device)
    frames = args.frames if args.kind == "video" else 1

    def loss_fn():
        pixels = crops(args.batch, frames, CROP, generator).to(args.device)
        pixels = pixels[:, :, 0] if args.kind == "image" else pixels
        latents = vae.encode(pixels).latent_dist.mode()
        error = vae.decode(latents + LATENT_NOISE * torch.randn_like(latents)).sample - pixels
        square = error.square().mean()
        # The pull to zero keeps the scale of the latents.
        loss = error.abs().mean() + 2 * square + 1e-4 * latents.square().mean()
        return loss, {"dB": decibels(square.detach())}

    def save_models():
        vae.save_pretrained(args.out)

    fit([vae], loss_fn, args, generator, save_models)
    set_statistics(vae)
    save_models()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    for name, steps, batch, lr in [("image", 6000, 16, 2e-3), ("still", 4000, 16, 2e-3), ("video", 6000, 4, 2e-3)]:
        kind = kinds.add_parser(name)
        add_loop_arguments(kind, steps=steps, batch=batch, lr=lr, ema=0.995, muon=True)
        kind.add_argument("--init", help="autoencoder folder to start from")
        if name == "video":
            kind.add_argument("--frames", type=int, default=FRAMES, help="of a part: 4 n + 1")
    kinds.add_parser("test").add_argument("--model", required=True)
    args = parser.parse_args()
    test(args.model) if args.kind == "test" else train(args)


if __name__ == "__main__":
    main()

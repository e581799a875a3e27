"""Encode training scenes once, so that the transformers train on latents. Interrupted, the same command goes on.

    python latents.py --vae work/image-vae --out work/pictures --count 20000
    python latents.py --vae work/video-vae --out work/stills --count 12000 --still  # clips of one frame
    python latents.py --vae work/video-vae --out work/clips --count 8000
    python latents.py --vae work/video-vae --out work/clips --count 8000 --first    # first frames, for image to video

A file holds SHARD scenes: ``latents`` [scenes, 16, (frames,) 16, 16] in half precision, normalised by the autoencoder's
config, and ``ids`` and ``mask`` of their prompts. Scenes depend on the number of the file alone. With ``--first``, a
second file beside it holds what the image-to-video pipeline encodes: the first frame, then frames of zeros. Two
processes may share a folder: ``--part 0/2`` and ``--part 1/2``.
"""

import argparse
from pathlib import Path

import torch
from autoencoder import load
from diffusers import AutoencoderKL
from draw import pictures, whole_clips
from text import tokenize
from world import random_scenes

SHARD = 128
CHUNK = 4


def normalise(vae, latents):
    """Latents of deviation about one, as the transformers see them."""
    if isinstance(vae, AutoencoderKL):
        return (latents - vae.config.shift_factor) * vae.config.scaling_factor
    shape = (1, -1, 1, 1, 1)
    mean, std = torch.tensor(vae.config.latents_mean), torch.tensor(vae.config.latents_std)
    return (latents - mean.view(shape).to(latents.device)) / std.view(shape).to(latents.device)


@torch.no_grad()
def encode(vae, pixels):
    """Normalised latents of pictures or clips [batch, 3, (frames,) height, width] in half precision."""
    parts = [normalise(vae, vae.encode(part.to(vae.device)).latent_dist.mode()) for part in pixels.split(CHUNK)]
    return torch.cat(parts).half().cpu()


def shard(vae, number, kind):
    """The contents of one file: of ``pictures``, of ``stills`` (clips of one frame), of ``clips``, or of ``first``."""
    generator = torch.Generator().manual_seed(1_000_000 + number)
    scenes = random_scenes(SHARD, generator)
    parts = [scenes[torch.arange(i, i + CHUNK)] for i in range(0, SHARD, CHUNK)]
    if kind == "first":
        clips = (whole_clips(part) for part in parts)
        latents = torch.cat([encode(vae, torch.cat([clip[:, :, :1], 0 * clip[:, :, 1:]], 2)) for clip in clips])
        return {"latents": latents}
    if kind == "clips":
        latents = torch.cat([encode(vae, whole_clips(part)) for part in parts])
    else:
        pixels = pictures(scenes, generator)
        latents = encode(vae, pixels[:, :, None] if kind == "stills" else pixels)
    ids, mask = tokenize(scenes.prompts(motion=kind == "clips"))
    return {"latents": latents, "ids": ids, "mask": mask}


class Pool:
    """All files that are there, in memory."""

    def __init__(self, folder, device, first=False):
        names = sorted(path for path in Path(folder).glob("*.pt") if "first" not in path.name)
        files = [torch.load(name, weights_only=True) for name in names]
        if not files:
            raise SystemExit(f"{folder} holds no latents: run latents.py")
        columns = (torch.cat([f[name] for f in files]).to(device) for name in ("latents", "ids", "mask"))
        self.latents, self.ids, self.mask = columns
        self.first = None
        if first:
            own = [torch.load(name.with_suffix(".first.pt"), weights_only=True)["latents"] for name in names]
            self.first = torch.cat(own).to(device)

    def rows(self, batch):
        """Random rows, drawn on the processor so that a resumed run draws the same ones."""
        return torch.randint(len(self.latents), (batch,)).to(self.latents.device)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=8000)
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--still", action="store_const", const="stills", dest="kind", help="clips of one frame")
    kinds.add_argument("--first", action="store_const", const="first", dest="kind", help="what image to video is given")
    parser.add_argument("--part", default="0/1", help="every n-th file from the i-th on, as i/n")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bf16", action="store_true", help="convolutions in bfloat16")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    vae = load(args.vae).eval().to(args.device)
    vae.encode = torch.autocast(args.device, torch.bfloat16, enabled=args.bf16)(vae.encode)
    kind = "pictures" if isinstance(vae, AutoencoderKL) else args.kind or "clips"
    begin, every = map(int, args.part.split("/"))
    for number in range(begin, -(-args.count // SHARD), every):
        path = args.out / f"{number:05}{'.first' if kind == 'first' else ''}.pt"
        if path.exists():
            continue
        contents = shard(vae, number, kind)
        torch.save(contents, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)
        print(f"{path}: deviation {contents['latents'].float().std():.3f}", flush=True)


if __name__ == "__main__":
    main()

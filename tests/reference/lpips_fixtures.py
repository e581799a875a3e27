"""LPIPS of small pairs of pictures by the package that its authors publish, for its three networks.

    python tests/reference/lpips_fixtures.py tests/fixtures/quality/lpips.json

Needs torch, torchvision and lpips (0.1.4 made the file in the repository). Weights and pictures are not stored: they are
made of numbers that `mixed` gives, which the test repeats. The file has the names and shapes of each network's
state_dict, its scaling layer, the smallest side that it accepts, and the distances.
"""

import json
import sys
from pathlib import Path

import lpips
import numpy as np
import torch

SIZES = [(64, 64), (37, 53), (31, 48), (90, 35)]


def mixed(start, count):
    """The numbers start .. start + count, each mixed to 32 bits that look random (murmur3's last step)."""
    h = (np.arange(count, dtype=np.uint64) + start).astype(np.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h = (h ^ (h >> np.uint32(shift))) * np.uint32(factor)
    return h ^ (h >> np.uint32(16))


def weights(state):
    """Kaiming's uniform weights for kernels, small ones for biases, positive ones for heads."""
    start, out = 0, {}
    for name in sorted(state):
        shape = tuple(state[name].shape)
        if name.startswith(("scaling_layer", "lins")):
            continue
        count = int(np.prod(shape))
        unit = (mixed(start, count) >> np.uint32(8)).astype(np.float32) / np.float32(2**23) - np.float32(1)
        start += count
        if name.startswith("lin"):
            unit = np.abs(unit)
        elif len(shape) == 1:
            unit *= np.float32(0.125)
        else:
            unit *= np.float32(np.sqrt(6 / np.prod(shape[1:])))
        out[name] = torch.from_numpy(unit.reshape(shape))
    return out


def pictures(height, width, seed):
    """A picture of stripes and blobs, one with noise on it, and one moved by two pixels; u8."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    a = ((x * 5 + y * 3 + c * 40 + (x // 9) * (y // 7) * 31 + seed * 17) % 256).astype(np.uint8)
    noise = (mixed(seed << 20, a.size) & np.uint32(31)).astype(np.uint8).reshape(a.shape)
    return a, a ^ noise, np.roll(a, 2, axis=1)


def distance(model, *pictures):
    of = lambda picture: torch.from_numpy(picture.astype(np.float32) / np.float32(255)).permute(2, 0, 1)[None]
    with torch.no_grad():
        # `normalize` is for pictures in 0..1.
        return float(model(*map(of, pictures), normalize=True))


def smallest(model):
    for side in range(1, 64):
        try:
            model(*[torch.zeros(1, 3, side, side)] * 2)
            return side
        except RuntimeError:
            pass


def main(out):
    networks = {}
    for net in ("alex", "vgg", "squeeze"):
        model = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
        state = model.state_dict()
        own = weights(state)
        # `lins` are the same heads once more.
        heads = {f"lins.{name[3]}{name[4:]}": value for name, value in own.items() if name.startswith("lin")}
        unchanged = {name: value for name, value in state.items() if name.startswith("scaling_layer")}
        model.load_state_dict(own | heads | unchanged)
        pairs = []
        for seed, (height, width) in enumerate(SIZES):
            a, noisy, moved = pictures(height, width, seed)
            found = {"noisy": distance(model, a, noisy), "moved": distance(model, a, moved)}
            pairs.append({"height": height, "width": width, "seed": seed} | found)
        side = smallest(model)
        # Features as small as what is added to their norm.
        for value in (model.net.slice1[0].weight, model.net.slice1[0].bias):
            value.mul_(2**-32)
        networks[net] = {
            "smallest_side": side,
            "scaling_layer": {name.split(".")[1]: value.flatten().tolist() for name, value in unchanged.items()},
            "tensors": {name: list(value.shape) for name, value in own.items()},
            "pairs": pairs,
            "faint": distance(model, *pictures(*SIZES[0], 0)[:2]),
        }
    versions = {"lpips": "0.1.4", "torch": torch.__version__}
    text = json.dumps({"generator": Path(__file__).name, "versions": versions, "networks": networks})
    out.write_text(text + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Tiled encoding and decoding of the Wan 2.2 autoencoder, by diffusers.

    python tests/reference/vae_tiling.py tests/fixtures/golden/vaes/wan22_vae tests/fixtures/vae/wan22_tiling

Needs torch, diffusers (0.42.1 made the files in the repository) and safetensors. Writes a case; the encoded video is
`sin(0.37 i)` for its `i`th value and is not stored.
"""

import json
import os
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file


def main(model, out):
    torch.manual_seed(0)
    vae = AutoencoderKLWan.from_pretrained(model, torch_dtype=torch.float32).eval()
    vae.enable_tiling(
        tile_sample_min_height=32,
        tile_sample_min_width=32,
        tile_sample_stride_height=16,
        tile_sample_stride_width=32,
    )
    z = torch.randn(1, vae.config.z_dim, 2, 3, 3) * 1.5
    shape = (1, 3, 5, 96, 112)
    x = torch.sin(0.37 * torch.arange(torch.Size(shape).numel(), dtype=torch.float64)).float().reshape(shape)
    with torch.no_grad():
        tensors = {
            "decode.z": z,
            "decode.sample": vae.decode(z, return_dict=False)[0],
            "encode.moments": vae.encode(x).latent_dist.parameters,
        }
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out / "golden.safetensors")
    args = {"tile_sample_min": 32, "tile_sample_stride": 16, "tile_sample_stride_width": 32}
    calls = [
        {"name": name, "args": args, "inputs": {x: f"{name}.{x}"}, "outputs": {y: f"{name}.{y}"}}
        for name, x, y in [("decode", "z", "sample"), ("encode", "x", "moments")]
    ]
    case = {
        "group": "vaes", "case": out.name, "generator": Path(__file__).name, "model_folder": os.path.relpath(model, out),
        "waves": {"encode.x": shape}, "calls": calls,
    }
    (out / "case.json").write_text(json.dumps(case, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

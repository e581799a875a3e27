"""Tiled encoding and decoding of the Wan 2.2 autoencoder, by diffusers.

    python tests/reference/vae_tiling.py tests/fixtures/golden/vaes/wan22_vae tests/fixtures/vae/wan22_tiling.safetensors

Needs torch, diffusers (0.42.1 made the file in the repository) and safetensors. Writes `decode.z`, `decode.sample` and
`encode.moments`; the encoded video is `sin(0.37 i)` for its `i`th value, shape [1, 3, 5, 96, 112].
"""

import sys

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
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Reference cases of the image autoencoders and of the packing of latents, by diffusers.

    python tests/reference/flux_vae.py magcache-models/tiny/tiny-flux/vae tests/fixtures/vae

Needs torch and diffusers 0.42.1. Inputs are `sin(0.37 i)` for the `i`th value and are not stored: case.json has their
shapes. Also prints what the unit test of `LatentDistribution` contains.
"""

import json
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2, Flux2Pipeline, FluxPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "magcache-models/tiny/train/world"))
import eight_bits  # noqa: E402

MODEL, OUT = Path(sys.argv[1]), Path(sys.argv[2])


def waves(*shape):
    count = torch.Size(shape).numel()
    return torch.sin(0.37 * torch.arange(count, dtype=torch.float64)).float().reshape(shape)


def call(name, inputs, outputs, args=None):
    keys = lambda names: {key: f"{name}.{key}" for key in names}
    return {"name": name, "args": args or {}, "inputs": keys(inputs), "outputs": keys(outputs)}


def both_ways(vae, latents, scale):
    """Whole, odd-sized and tiled; tiles are four latents wide, every three. Shapes of the inputs, calls, and outputs."""
    channels = vae.config.latent_channels
    tiles = {"tile_sample_min": 4 * scale, "tile_sample_stride": 3 * scale}
    shapes = {
        "encode.x": [2, 3, 6 * scale, 4 * scale],
        "encode_odd.x": [1, 3, 19, 27],
        "decode.z": [2, channels, 3, 5],
        "tiled_encode.x": [1, 3, 7 * scale, 9 * scale],
        "tiled_decode.z": [1, channels, 7, 5],
    }
    calls = [
        call("encode", ["x"], ["moments", "latents", "packed_latents"]),
        call("encode_odd", ["x"], ["mode"]),
        call("decode", ["z"], ["sample"]),
        call("tiled_encode", ["x"], ["moments"], tiles),
        call("tiled_decode", ["z"], ["sample"], tiles),
    ]
    given = {key: waves(*shape) for key, shape in shapes.items()}
    small = vae.encode(given["encode.x"]).latent_dist
    out = {
        "encode.moments": small.parameters,
        "encode_odd.mode": vae.encode(given["encode_odd.x"]).latent_dist.mode(),
        "decode.sample": vae.decode(given["decode.z"]).sample,
    }
    out.update(latents(small.mode()))
    vae.enable_tiling()
    vae.tile_sample_min_size, vae.tile_latent_min_size = 4 * scale, 4
    out["tiled_encode.moments"] = vae.encode(given["tiled_encode.x"]).latent_dist.parameters
    out["tiled_decode.sample"] = vae.decode(given["tiled_decode.z"]).sample
    vae.disable_tiling()
    return shapes, calls, out


def flux1():
    vae = eight_bits.load(AutoencoderKL, MODEL)

    def latents(mode):
        latents = (mode - vae.config.shift_factor) * vae.config.scaling_factor
        tokens = FluxPipeline._pack_latents(latents, *latents.shape)
        return {"encode.latents": latents, "encode.packed_latents": tokens}

    save("flux1_tiny", *both_ways(vae, latents, 8), "../../../../magcache-models/tiny/tiny-flux/vae")


def flux2():
    torch.manual_seed(7)
    down, up = ("DownEncoderBlock2D",) * 2, ("UpDecoderBlock2D",) * 2
    vae = AutoencoderKLFlux2(
        down_block_types=down, up_block_types=up, block_out_channels=(4, 8), decoder_block_out_channels=(6, 4),
        layers_per_block=1, latent_channels=3, norm_num_groups=2, sample_size=8, batch_norm_eps=0.02,
    ).eval()
    for parameter in vae.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    vae.bn.running_mean.copy_(0.4 * torch.randn(12))
    vae.bn.running_var.copy_(0.3 + 1.5 * torch.rand(12))
    folder = OUT / "flux2_small"
    vae.save_pretrained(folder)
    std = torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps)

    def latents(mode):
        latents = (Flux2Pipeline._patchify_latents(mode) - vae.bn.running_mean.view(1, -1, 1, 1)) / std
        return {"encode.latents": latents, "encode.packed_latents": Flux2Pipeline._pack_latents(latents)}

    shapes, calls, out = both_ways(vae, latents, 2)
    packed = packing()
    calls.append(call("packing", ["raw"], [key for key in packed if key != "raw"]))
    save("flux2_small", shapes, calls, out | {f"packing.{key}": tensor for key, tensor in packed.items()})


def packing():
    whole = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).reshape(2, 3, 4, 6)
    patches = Flux2Pipeline._patchify_latents(whole)
    references = [torch.zeros(1, 1, 2, 1), torch.zeros(1, 1, 1, 3)]
    return {
        "raw": whole,
        "packed": FluxPipeline._pack_latents(whole, 2, 3, 4, 6),
        "patches": patches,
        "flat": Flux2Pipeline._pack_latents(patches),
        "image_ids": FluxPipeline._prepare_latent_image_ids(2, 2, 3, "cpu", torch.float32),
        "latent_ids": Flux2Pipeline._prepare_latent_ids(patches)[0].float(),
        "reference_ids": Flux2Pipeline._prepare_image_ids(references)[0].float(),
        "text_ids": Flux2Pipeline._prepare_text_ids(torch.zeros(1, 3, 1))[0].float(),
    }


def distribution():
    """Two channels; the logarithms of the variance also lie beyond both limits."""
    moments = torch.cat([waves(1, 2, 2, 3), 40 * waves(1, 2, 2, 3)], 1)
    latents = DiagonalGaussianDistribution(moments)
    noise = torch.randn(latents.mean.shape, generator=torch.Generator().manual_seed(5))
    sample = latents.sample(torch.Generator().manual_seed(5))
    given = moments.chunk(2, 1)[1]
    for row in zip(*(t.flatten().numpy() for t in (latents.mode(), given, latents.logvar, noise, latents.std, sample))):
        print("[" + ", ".join(str(value) for value in row) + "],")


def save(name, shapes, calls, tensors, model_folder=None):
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    case = {"group": "vaes", "case": name, "generator": Path(__file__).name}
    case |= {"model_folder": model_folder} if model_folder else {}
    (folder / "case.json").write_text(json.dumps(case | {"waves": shapes, "calls": calls}, indent=1) + "\n")
    tensors = {key: t.detach().float().clone().contiguous() for key, t in tensors.items()}
    save_file(tensors, folder / "golden.safetensors")


with torch.no_grad():
    flux1()
    flux2()
    distribution()

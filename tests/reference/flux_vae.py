"""Reference data of the image autoencoders and of the packing of latents, by diffusers.

    python tests/reference/flux_vae.py magcache-models/tiny/tiny-flux/vae tests/fixtures/vae

Needs torch and diffusers 0.42.1. Inputs are `sin(0.37 i)` for the `i`th value and are not stored.
"""

import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2, Flux2Pipeline, FluxPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from safetensors.torch import save_file

MODEL, OUT = Path(sys.argv[1]), Path(sys.argv[2])


def waves(*shape):
    count = torch.Size(shape).numel()
    return torch.sin(0.37 * torch.arange(count, dtype=torch.float64)).float().reshape(shape)


def both_ways(vae, latents, scale):
    """Whole, odd-sized and tiled; tiles are four latents wide, every three."""
    channels = vae.config.latent_channels
    small = waves(2, 3, 6 * scale, 4 * scale)
    large = waves(1, 3, 7 * scale, 9 * scale)
    out = {
        "encode.moments": vae.encode(small).latent_dist.parameters,
        "encode_odd.mode": vae.encode(waves(1, 3, 19, 27)).latent_dist.mode(),
        "decode.sample": vae.decode(waves(2, channels, 3, 5)).sample,
    }
    out.update(latents(vae.encode(small).latent_dist.mode()))
    vae.enable_tiling()
    vae.tile_sample_min_size, vae.tile_latent_min_size = 4 * scale, 4
    out["tiled_encode.moments"] = vae.encode(large).latent_dist.parameters
    out["tiled_decode.sample"] = vae.decode(waves(1, channels, 7, 5)).sample
    vae.disable_tiling()
    return out


def flux1():
    vae = AutoencoderKL.from_pretrained(MODEL, torch_dtype=torch.float32).eval()

    def latents(mode):
        latents = (mode - vae.config.shift_factor) * vae.config.scaling_factor
        tokens = FluxPipeline._pack_latents(latents, *latents.shape)
        return {"latents": latents, "tokens": tokens}

    save(both_ways(vae, latents, 4), "flux1_tiny.safetensors")
    return vae


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
        return {"latents": latents, "tokens": Flux2Pipeline._pack_latents(latents)}

    save(both_ways(vae, latents, 2), "flux2_small/golden.safetensors")
    return vae


def packing():
    whole = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).reshape(2, 3, 4, 6)
    patches = Flux2Pipeline._patchify_latents(whole)
    references = [torch.zeros(1, 1, 2, 1), torch.zeros(1, 1, 1, 3)]
    return {
        "packing.packed": FluxPipeline._pack_latents(whole, 2, 3, 4, 6),
        "packing.patches": patches,
        "packing.flat": Flux2Pipeline._pack_latents(patches),
        "packing.image_ids": FluxPipeline._prepare_latent_image_ids(2, 2, 3, "cpu", torch.float32),
        "packing.latent_ids": Flux2Pipeline._prepare_latent_ids(patches)[0].float(),
        "packing.reference_ids": Flux2Pipeline._prepare_image_ids(references)[0].float(),
        "packing.text_ids": Flux2Pipeline._prepare_text_ids(torch.zeros(1, 3, 1))[0].float(),
    }


def distribution():
    """Two channels; the logarithms of the variance also lie beyond both limits."""
    moments = torch.cat([waves(1, 2, 2, 3), 40 * waves(1, 2, 2, 3)], 1)
    latents = DiagonalGaussianDistribution(moments)
    return {
        "moments": moments,
        "mean": latents.mode(),
        "log_variance": latents.logvar,
        "std": latents.std,
        "noise": torch.randn(latents.mean.shape, generator=torch.Generator().manual_seed(5)),
        "sample": latents.sample(torch.Generator().manual_seed(5)),
    }


def save(tensors, name):
    save_file({key: t.detach().float().clone().contiguous() for key, t in tensors.items()}, OUT / name)


with torch.no_grad():
    flux1()
    flux2()
    save(packing(), "flux_packing.safetensors")
    save(distribution(), "flux_distribution.safetensors")

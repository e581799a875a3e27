"""Miniature image autoencoders in the layout of Black Forest Labs, and the same ones as written by diffusers.

    python tests/reference/native_flux_vae.py FLUX1 FLUX2 tests/fixtures/native

FLUX1 and FLUX2 are `src/flux/modules/autoencoder.py` of github.com/black-forest-labs/flux (802fb47) and
`src/flux2/autoencoder.py` of github.com/black-forest-labs/flux2 (ab7cca6). Needs torch, diffusers (0.42.1 made the files in
the repository) and einops. diffusers creates the model, its tensors get their native names here, and then the team's own
module loads those strictly and must give diffusers' latents and images; diffusers' converter must restore its names.
"""

import importlib.util
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2, Flux2Pipeline
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from native_fixtures import agree, renamed, shaken
from safetensors.torch import save_file

GROUPS = 2


def official(file, name):
    """A team's module, with the miniatures' number of groups in its norms instead of the 32 in its source."""
    spec = importlib.util.spec_from_file_location(name, file)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    norm, module.nn = module.nn.GroupNorm, type(sys)("nn")
    vars(module.nn).update(vars(torch.nn))
    module.nn.GroupNorm = lambda num_groups, **arguments: norm(num_groups=GROUPS, **arguments)
    return module


def names(levels):
    """Patterns for diffusers' names, with the native names."""
    end = r"(weight|bias)"
    table = [(r"bn\.(\w+)", r"bn.\1"), (rf"(en|de)coder\.conv_(in|out)\.{end}", r"\1coder.conv_\2.\3"),
             (rf"(en|de)coder\.conv_norm_out\.{end}", r"\1coder.norm_out.\2"),
             (rf"quant_conv\.{end}", r"encoder.quant_conv.\1"), (rf"post_quant_conv\.{end}", r"decoder.post_quant_conv.\1"),
             (rf"(en|de)coder\.mid_block\.attentions\.0\.group_norm\.{end}", r"\1coder.mid.attn_1.norm.\2"),
             (rf"(en|de)coder\.mid_block\.attentions\.0\.to_([qkv])\.{end}", r"\1coder.mid.attn_1.\2.\3"),
             (rf"(en|de)coder\.mid_block\.attentions\.0\.to_out\.0\.{end}", r"\1coder.mid.attn_1.proj_out.\2"),
             (rf"encoder\.down_blocks\.(\d)\.downsamplers\.0\.conv\.{end}", r"encoder.down.\1.downsample.conv.\2")]
    for part, native in [("norm1", "norm1"), ("conv1", "conv1"), ("norm2", "norm2"), ("conv2", "conv2"),
                         ("conv_shortcut", "nin_shortcut")]:
        table.append((rf"encoder\.down_blocks\.(\d)\.resnets\.(\d)\.{part}\.{end}", rf"encoder.down.\1.block.\2.{native}.\3"))
        for i in range(2):
            table.append((rf"(en|de)coder\.mid_block\.resnets\.{i}\.{part}\.{end}", rf"\1coder.mid.block_{i + 1}.{native}.\2"))
        for i in range(levels):
            table.append((rf"decoder\.up_blocks\.{i}\.resnets\.(\d)\.{part}\.{end}",
                          rf"decoder.up.{levels - 1 - i}.block.\1.{native}.\2"))
    for i in range(levels):
        table.append((rf"decoder\.up_blocks\.{i}\.upsamplers\.0\.conv\.{end}",
                      rf"decoder.up.{levels - 1 - i}.upsample.conv.\1"))
    return table


def native(ours, levels):
    """The model's tensors under their native names, the attention's matrices as kernels of one pixel."""
    state = {n: t for n, t in ours.state_dict().items()}
    out = renamed(state, names(levels))
    out = {n: t[:, :, None, None] if ".attn_1." in n and t.dim() == 2 else t for n, t in out.items()}
    outside = {n.replace("encoder.quant", "quant").replace("decoder.post_", "post_"): t for n, t in out.items()}
    types = {"down_block_types": [0] * levels, "up_block_types": [0] * levels}
    back = convert_ldm_vae_checkpoint(outside, types)
    expected = {n: t for n, t in state.items() if not n.startswith("bn.")}
    assert set(back) == set(expected) and all(torch.equal(back[n], expected[n]) for n in expected)
    return out


def common(channels, latent_channels):
    levels = len(channels)
    return {"down_block_types": ("DownEncoderBlock2D",) * levels, "up_block_types": ("UpDecoderBlock2D",) * levels,
            "block_out_channels": channels, "layers_per_block": 1, "latent_channels": latent_channels,
            "norm_num_groups": GROUPS, "sample_size": 16}


def parameters(module, channels, latent_channels, **more):
    return module.AutoEncoderParams(
        resolution=16, in_channels=3, ch=channels[0], out_ch=3, ch_mult=[c // channels[0] for c in channels],
        num_res_blocks=1, z_channels=latent_channels, **more)


def write(out, ours, tensors):
    ours.save_pretrained(out / "diffusers")
    save_file(half(ours.state_dict()), out / "diffusers" / "diffusion_pytorch_model.safetensors")
    (out / "native").mkdir(parents=True, exist_ok=True)
    save_file(half(tensors), out / "native" / "ae.safetensors")


def half(tensors):
    """Converts to 16 bits, which hold the values exactly; the statistics of the latents stay as they are."""
    return {n: t.contiguous().clone() if n.startswith("bn.") else t.bfloat16().contiguous() for n, t in tensors.items()}


def flux1(file, out):
    torch.manual_seed(1)
    channels, latent_channels, scale, shift = (2, 4, 6), 3, 0.4, 0.1
    ours = shaken(AutoencoderKL(**common(channels, latent_channels), use_quant_conv=False, use_post_quant_conv=False,
                                scaling_factor=scale, shift_factor=shift))
    tensors = native(ours, len(channels))
    module = official(file, "flux1")
    theirs = module.AutoEncoder(parameters(module, channels, latent_channels, scale_factor=scale, shift_factor=shift)).eval()
    theirs.load_state_dict(tensors, strict=True)
    images, latents = torch.rand(2, 3, 16, 24) * 2 - 1, torch.randn(2, latent_channels, 4, 6)
    agree("FLUX.1 encodes", theirs.encoder(images), ours.encode(images).latent_dist.parameters)
    agree("FLUX.1 decodes", theirs.decode(latents), ours.decode(latents / scale + shift).sample)
    write(out, ours, tensors)


def flux2(file, out):
    torch.manual_seed(2)
    channels, latent_channels = (2, 6), 3
    ours = shaken(AutoencoderKLFlux2(**common(channels, latent_channels)))
    ours.bn.running_mean.copy_(0.4 * torch.randn(4 * latent_channels))
    ours.bn.running_var.copy_(0.3 + 1.5 * torch.rand(4 * latent_channels))
    tensors = native(ours, len(channels))
    module = official(file, "flux2")
    theirs = module.AutoEncoder(parameters(module, channels, latent_channels)).eval()
    theirs.load_state_dict(tensors, strict=True)
    mean = ours.bn.running_mean.view(1, -1, 1, 1)
    std = torch.sqrt(ours.bn.running_var.view(1, -1, 1, 1) + ours.config.batch_norm_eps)
    images, latents = torch.rand(2, 3, 8, 12) * 2 - 1, torch.randn(2, 4 * latent_channels, 2, 3)
    mode = ours.encode(images).latent_dist.mode()
    agree("FLUX.2 encodes", theirs.encode(images), (Flux2Pipeline._patchify_latents(mode) - mean) / std)
    decoded = ours.decode(Flux2Pipeline._unpatchify_latents(latents * std + mean)).sample
    agree("FLUX.2 decodes", theirs.decode(latents), decoded)
    write(out, ours, tensors)


with torch.no_grad():
    flux1(sys.argv[1], Path(sys.argv[3]) / "flux1-vae")
    flux2(sys.argv[2], Path(sys.argv[3]) / "flux2-vae")

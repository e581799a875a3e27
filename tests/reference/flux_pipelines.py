"""Whole runs of the Flux pipelines of diffusers with small random models, for comparison with ours.

    python tests/reference/flux_pipelines.py [QWEN3.jinja]

QWEN3.jinja is the chat template of Qwen3, as published with any of its checkpoints; without it the cases of FLUX.2 stay as they
are. Needs torch, diffusers (0.42.1) and
transformers (5.23.0). Writes to `tests/fixtures/flux_pipelines`
  flux1/, flux2/  shared by several runs: transformer, autoencoder, the text encoder of FLUX.2; stored in f16
  CASE/           `model_index.json`, the scheduler, `case.json` with the request and where the other parts are, and
                  `golden.safetensors` with the initial noise, the latents after every step and samples of the image
Text encoders and tokenizers of FLUX.1 are those of `magcache-models/tiny/tiny-flux`, the tokenizer of FLUX.2 that of `flux_text`. Images are a formula of their coordinates.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxImg2ImgPipeline,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
)
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    AutoTokenizer,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5EncoderModel,
)

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
OUT = FIXTURES / "flux_pipelines"
TINY = FIXTURES.parents[1] / "magcache-models" / "tiny" / "tiny-flux"
TINY_TEXT = {part: TINY / part for part in ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")}
PROMPT, NEGATIVE = "a red circle and a blue square", "a green triangle"
WIDTH, HEIGHT = 128, 96
# The stride at which large tensors are sampled: coprime to every size, so that every row, column and channel occurs.
STRIDE = 29
DYNAMIC = {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
ODD, LARGE = (150, 101), (1300, 900)

CASES = {
    "dev": {"class": FluxPipeline, "steps": 8, "guidance": 3.5},
    "dev_cfg": {"class": FluxPipeline, "steps": 6, "guidance": 3.5, "true_cfg": 2.5, "embeds": True},
    "schnell": {"class": FluxPipeline, "steps": 4, "guidance": 0.0, "rows": 256, "shift": {"shift": 1.0}, "embeds": True},
    "image_60": {"class": FluxImg2ImgPipeline, "steps": 10, "guidance": 3.5, "strength": 0.6, "picture": ODD},
    "image_35": {"class": FluxImg2ImgPipeline, "steps": 10, "guidance": 3.5, "strength": 0.35, "picture": ODD},
    "kontext": {"class": FluxKontextPipeline, "steps": 3, "guidance": 2.5, "picture": ODD},
    "klein": {"class": Flux2KleinPipeline, "distilled": True, "steps": 4, "guidance": 1.0},
    "klein_base": {"class": Flux2KleinPipeline, "steps": 6, "guidance": 4.0, "embeds": True},
    # The image takes the reference's size, cut to whole tokens.
    "klein_odd": {"class": Flux2KleinPipeline, "distilled": True, "steps": 4, "guidance": 1.0, "picture": ODD, "like": True},
    "klein_large": {"class": Flux2KleinPipeline, "distilled": True, "steps": 2, "guidance": 1.0, "picture": LARGE},
}


def shaken(model, seed):
    """Random, with weights large enough that every input matters."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
        parameter.add_(torch.randn_like(parameter) * scale * 0.5)
    return model.eval()


def stored(model, folder):
    """The model as read back from its files: `half` also rounds values that are in no file, such as rotary frequencies."""
    model.half().save_pretrained(folder)
    return type(model).from_pretrained(folder, torch_dtype=torch.float32).eval()


def autoencoder(kind, seed, **more):
    """Five levels, so that even Kontext's large images are few tokens. Latents hardly vary: a sample is the mean."""
    down, up = ("DownEncoderBlock2D",) * 5, ("UpDecoderBlock2D",) * 5
    torch.manual_seed(seed)
    model = kind(
        down_block_types=down, up_block_types=up, block_out_channels=(4, 4, 4, 4, 8), layers_per_block=1, latent_channels=4,
        norm_num_groups=2, **more,
    )
    model = shaken(model, seed)
    last = model.quant_conv if model.quant_conv is not None else model.encoder.conv_out
    last.weight[4:] = 0
    last.bias[4:] = -30
    # Pixels beyond black and white would be clipped and show nothing.
    model.decoder.conv_out.weight *= 0.6
    return model


def flux1():
    folder = OUT / "flux1"
    vae = autoencoder(
        AutoencoderKL, 3, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False
    )
    torch.manual_seed(4)
    transformer = FluxTransformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=1,
        joint_attention_dim=64, pooled_projection_dim=64, guidance_embeds=True, axes_dims_rope=(4, 6, 6),
    )
    transformer = shaken(transformer, 4)
    return {
        "parts": {"vae": stored(vae, folder / "vae"), "transformer": stored(transformer, folder / "transformer")},
        "text": {
            "tokenizer": AutoTokenizer.from_pretrained(TINY_TEXT["tokenizer"]),
            "text_encoder": CLIPTextModel.from_pretrained(TINY_TEXT["text_encoder"]),
            "tokenizer_2": AutoTokenizer.from_pretrained(TINY_TEXT["tokenizer_2"]),
            "text_encoder_2": T5EncoderModel.from_pretrained(TINY_TEXT["text_encoder_2"]),
        },
        "paths": TINY_TEXT,
    }


def unguided(transformer, folder):
    """The same network without the guidance embedding; it shares the other network's file."""
    # The path that the other network was read from is not part of the configuration.
    config = {key: value for key, value in transformer.config.items() if key != "_name_or_path"} | {"guidance_embeds": False}
    model = FluxTransformer2DModel.from_config(config).eval()
    _, unused = model.load_state_dict(transformer.state_dict(), strict=False)
    assert unused and all("guidance_embedder" in name for name in unused)
    model.save_config(folder)
    return model


def klein(template):
    folder = OUT / "flux2"
    vae = autoencoder(AutoencoderKLFlux2, 5, batch_norm_eps=1e-4)
    vae.bn.running_mean.copy_(0.4 * torch.randn(16))
    vae.bn.running_var.copy_(0.3 + 1.5 * torch.rand(16))
    torch.manual_seed(6)
    transformer = Flux2Transformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=1, joint_attention_dim=24,
        timestep_guidance_channels=64, mlp_ratio=1.5, axes_dims_rope=(4, 4, 4, 4), rope_theta=2000, guidance_embeds=False,
    )
    files = FIXTURES / "flux_text" / "qwen3"
    end = "<|endoftext|>"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(files / "tokenizer.json"), pad_token=end, eos_token="<|im_end|>", model_max_length=131072
    )
    tokenizer.chat_template = template.read_text()
    # One layer more than the last hidden state that is read, so that state is not the normalised one.
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=12, num_hidden_layers=28, num_attention_heads=2,
        num_key_value_heads=1, head_dim=4, max_position_embeddings=1024, tie_word_embeddings=True, rope_theta=1000000.0,
        bos_token_id=None, eos_token_id=130, pad_token_id=128,
    )
    encoder = shaken(Qwen3ForCausalLM(config), 7)
    return {
        "parts": {
            "vae": stored(vae, folder / "vae"),
            "transformer": stored(shaken(transformer, 6), folder / "transformer"),
            "text_encoder": stored(encoder, folder / "text_encoder"),
        },
        "text": {"tokenizer": tokenizer},
        "paths": {"tokenizer": files},
    }


def picture(size):
    width, height = size
    y, x, c = np.mgrid[:height, :width, :3]
    return Image.fromarray(((x * (c + 1) + y * (5 - 2 * c) + x * y // 64) % 256).astype(np.uint8))


def samples(tensor):
    return tensor.flatten()[::STRIDE].clone()


def make(name, case, family):
    folder = OUT / name
    folder.mkdir(parents=True)
    kind = case["class"]
    of_klein, start = kind is Flux2KleinPipeline, "strength" in case
    parts, paths = dict(family["parts"]), dict(family["paths"])
    paths |= {part: OUT / ("flux2" if of_klein else "flux1") / part for part in parts}
    scheduler = FlowMatchEulerDiscreteScheduler(**case.get("shift", DYNAMIC))
    if name == "schnell":
        parts["transformer"] = unguided(parts["transformer"], folder / "transformer")
    more = {"is_distilled": case.get("distilled", False)} if of_klein else {}
    pipeline = kind(**parts, **family["text"], scheduler=scheduler, **more)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_config(folder)
    scheduler.save_pretrained(folder / "scheduler")

    tokens = (WIDTH // 32) * (HEIGHT // 32)
    generator = torch.Generator().manual_seed(sum(name.encode()))
    noise = torch.randn(1, tokens, 16, generator=generator)
    rows = case.get("rows", 512)
    call = {"prompt": PROMPT, "num_inference_steps": case["steps"], "guidance_scale": case["guidance"]}
    call |= {} if case.get("like") else {"width": WIDTH, "height": HEIGHT}
    call |= {"image": picture(case["picture"])} if "picture" in case else {}
    if "true_cfg" in case:
        call |= {"true_cfg_scale": case["true_cfg"], "negative_prompt": NEGATIVE}
    if start:
        # This pipeline draws the noise itself; `latents` would have to contain the image already.
        call |= {"strength": case["strength"], "generator": generator}
        noise, scale_noise = None, scheduler.scale_noise

        def scaled(sample, timestep, drawn):
            nonlocal noise
            noise = pipeline._pack_latents(drawn, *drawn.shape)
            return scale_noise(sample, timestep, drawn)

        scheduler.scale_noise = scaled
    elif of_klein:
        call["latents"] = noise.transpose(1, 2).reshape(1, 16, HEIGHT // 32, WIDTH // 32)
    else:
        call["latents"] = noise
    call |= {"max_area": WIDTH * HEIGHT} if kind is FluxKontextPipeline else {}

    latents, timesteps = [], []

    def after(_, step, timestep, tensors):
        assert step == len(latents)
        latents.append(tensors["latents"].clone())
        timesteps.append(float(timestep))
        return {}

    image = pipeline(**call, max_sequence_length=rows, output_type="pt", callback_on_step_end=after).images
    image = image[0] * 2 - 1
    assert image.shape == (3, HEIGHT, WIDTH), image.shape
    latents = torch.cat(latents)
    assert latents.isfinite().all() and 0.3 < latents[-1].std() and latents.abs().max() < 20, latents.abs().max()
    cut = (image.abs() >= 1).float().mean()
    assert cut < 0.02, f"{cut} of the pixels are black or white"

    expected = {"noise": noise, "latents": latents, "image": samples(image)}
    if case.get("embeds"):
        prompts = {"prompt": PROMPT}
        prompts |= {"negative": "" if of_klein else NEGATIVE} if case["guidance"] > 1 else {}
        for what, prompt in prompts.items():
            embeds, *pooled = pipeline.encode_prompt(prompt, max_sequence_length=rows)
            expected[f"{what}.embeds"] = samples(embeds)
            expected |= {} if of_klein else {f"{what}.pooled": pooled[0]}
    save_file({key: tensor.float().contiguous() for key, tensor in expected.items()}, folder / "golden.safetensors")
    request = {
        "prompt": PROMPT, "negative_prompt": NEGATIVE if "true_cfg" in case else "", "steps": case["steps"], "width": WIDTH,
        "height": HEIGHT, "guidance": case["guidance"],
    }
    request |= {key: case[key] for key in ("true_cfg", "strength", "picture") if case.get(key) is not None}
    guided = "true_cfg" in case or (of_klein and case["guidance"] > 1)
    recorded = {
        "group": "pipelines", "case": name,
        "parts": {part: os.path.relpath(path, folder) for part, path in sorted(paths.items())},
        # As in the published models; diffusers reads that many tokens whatever the file says.
        "max_lengths": {"tokenizer_2": 512} if "tokenizer_2" in paths else {},
        "request": request, "passes": len(timesteps) * (2 if guided else 1),
        # Kontext enlarges its image, which rounds 74 of 3 million bytes differently than Pillow.
        "tolerance": 1e-4 if name == "kontext" else 2e-5,
        "looked_at": "picture" in case and case.get("strength") is None, "like": case.get("like", False),
        "text_tokens": rows, "first": case["steps"] - len(timesteps), "timesteps": timesteps,
    }
    (folder / "case.json").write_text(json.dumps(recorded, indent=1) + "\n")
    print(f"{name}: latents {tuple(latents.shape)} {latents[-1].std():.3f}, image {image.mean():.3f} {image.std():.3f} cut {cut:.3f}")


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    families = {False: ("flux1", flux1)}
    if sys.argv[1:]:
        families[True] = ("flux2", lambda: klein(Path(sys.argv[1])))
    for of_klein, (shared, build) in families.items():
        shutil.rmtree(OUT / shared, ignore_errors=True)
        family = build()
        for name, case in CASES.items():
            if (case["class"] is Flux2KleinPipeline) == of_klein:
                shutil.rmtree(OUT / name, ignore_errors=True)
                make(name, case, family)


if __name__ == "__main__":
    main()

"""Records whole runs of Z-Image and Qwen-Image with diffusers: prompts, every step, and the picture.

    python image_families.py          # writes tests/fixtures/image_families/*

Weights are made by a formula from their names, so that only names and shapes are stored: value `i` of a tensor is
`(mix64(seed * 2^32 + i) >> 40) * 2^-23 - 1`, where `mix64` is the finaliser of splitmix64 and `seed` the 32-bit
FNV-1a of the tensor's name, divided by the square root of the values of a row and multiplied by 1.7; gains of norms are 1 and a
tenth of it, other vectors a tenth.
"""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from safetensors.torch import save_file
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
)

ROOT = Path(__file__).parent.parent / "fixtures"
STRIDE = 7
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    # An expression: a template's own last line break is dropped.
    "{{ '<|im_start|>assistant\n' }}"
)


def noise(seed, count):
    x = np.uint64(seed << 32) + np.arange(count, dtype=np.uint64)
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1


def seed_of(name):
    seed = 0x811C9DC5
    for byte in name.encode():
        seed = (seed ^ byte) * 0x01000193 % 2**32
    return seed


def weight(name, shape):
    values = noise(seed_of(name), int(np.prod(shape)))
    row = int(np.prod(shape[1:]))
    if len(shape) > 1 and "gamma" not in name:
        values = values * (1.7 / np.sqrt(row))
    else:
        values = values * 0.1 + (1 if "norm" in name and name.endswith("weight") or "gamma" in name else 0)
    return torch.from_numpy(values.reshape(shape).astype(np.float32))


def fill(model, keep=lambda name: True):
    """Replaces every tensor; returns names and shapes of those that are kept."""
    # The head may be the embedding under a second name, which would be filled twice.
    tied = {"lm_head.weight"} if getattr(model.config, "tie_word_embeddings", False) else set()
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(weight(name, tuple(tensor.shape)))
    return {name: list(t.shape) for name, t in state.items() if keep(name)}


def tokenizer():
    folder = ROOT / "flux_text/qwen3"
    made = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token="<|endoftext|>")
    made.chat_template, made.padding_side = TEMPLATE, "right"
    return made


def config_of(model):
    config = {k: v for k, v in model.config.items() if not k.startswith("_")} if isinstance(model.config, dict) else None
    config = dict(model.config) if config is None else config
    return {"_class_name": type(model).__name__, **{k: v for k, v in config.items() if not k.startswith("_")}}


def record(name, pipe, parts, text_config, request, call):
    shape = request["noise"]
    start = torch.from_numpy(noise(7, int(np.prod(shape))).reshape(shape).astype(np.float32)) * 1.7
    latents = []

    def seen(_, step, timestep, kwargs):
        latents.append(kwargs["latents"].clone())
        return {}

    image = pipe(
        prompt=request["prompt"],
        negative_prompt=request["negative_prompt"],
        num_inference_steps=request["steps"],
        width=request["size"][0],
        height=request["size"][1],
        latents=start.clone(),
        output_type="pt",
        callback_on_step_end=seen,
        **call,
    ).images[0]
    folder = ROOT / "image_families" / name
    folder.mkdir(parents=True, exist_ok=True)
    configs = {
        "transformer": config_of(pipe.transformer),
        "vae": config_of(pipe.vae),
        "text_encoder": text_config,
        "scheduler": {"_class_name": "FlowMatchEulerDiscreteScheduler", **request.pop("scheduler")},
    }
    model = {"class": type(pipe).__name__, "configs": configs, "tensors": parts, "request": request}
    (folder / "model.json").write_text(json.dumps(model, separators=(",", ":")) + "\n")
    pixels = image.flatten()[::STRIDE].contiguous() * 2 - 1
    save_file({"noise": start, "latents": torch.stack(latents), "pixels": pixels}, folder / "golden.safetensors")


def z_image():
    transformer = ZImageTransformer2DModel(
        in_channels=4, dim=16, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=8,
        axes_dims=[4, 2, 2], axes_lens=[1536, 512, 512],
    )
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4, 4), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1, latent_channels=4, norm_num_groups=2,
        scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False,
    )
    text = {
        "model_type": "qwen3", "vocab_size": 160, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 3,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "hidden_act": "silu", "rms_norm_eps": 1e-6,
        "rope_theta": 1e6, "tie_word_embeddings": True,
    }
    encoder = Qwen3ForCausalLM(Qwen3Config(**{k: v for k, v in text.items() if k != "model_type"}))
    parts = {"transformer": fill(transformer), "vae": fill(vae), "text_encoder": fill(encoder)}
    scheduler = {"shift": 6.0, "num_train_timesteps": 1000}
    pipe = ZImagePipeline(
        FlowMatchEulerDiscreteScheduler(**scheduler), vae.eval(), encoder.eval(), tokenizer(), transformer.eval()
    )
    request = {
        "prompt": "a red circle", "negative_prompt": "a blue square and a cat", "steps": 4, "size": [48, 32],
        "guidance": 4.0, "cfg_normalization": 0.9, "noise": [1, 4, 4, 6], "scheduler": scheduler,
    }
    record("z_image", pipe, parts, text, request, {"guidance_scale": 4.0, "cfg_normalization": 0.9})


def qwen_image():
    # Channels of the axes are as single files are taken to have them: no tensor says it.
    transformer = QwenImageTransformer2DModel(
        num_layers=2, num_attention_heads=2, attention_head_dim=8, in_channels=16, out_channels=4,
        joint_attention_dim=128, axes_dims_rope=(4, 2, 2),
    )
    # Norms of two or four channels would magnify the last bits of latents 500 times, those of eight do it 20 times.
    vae = AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.1, 0.9, 1.2, 1.0],
    )
    language = {
        "vocab_size": 160, "hidden_size": 128, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 1, "num_key_value_heads": 1, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    }
    sections = {"mrope_section": [16, 24, 24]}
    vision = {
        "depth": 1, "hidden_size": 80, "intermediate_size": 24, "num_heads": 1, "out_hidden_size": 128,
        "fullatt_block_indexes": [7, 15, 23, 31],
    }
    rope = {"rope_theta": 1e6, "rope_type": "default", **sections}
    encoder = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config={**language, "rope_parameters": rope}, vision_config=vision)
    )
    text = {
        "model_type": "qwen2_5_vl", **language, "rope_theta": 1e6, "rope_scaling": {"type": "mrope", **sections},
        "vision_config": vision,
    }
    parts = {
        "transformer": fill(transformer),
        "vae": fill(vae),
        "text_encoder": fill(encoder, lambda name: "lm_head" not in name),
    }
    scheduler = {
        "shift": 1.0, "num_train_timesteps": 1000, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 0.9,
        "base_image_seq_len": 256, "max_image_seq_len": 8192, "shift_terminal": 0.02,
        "time_shift_type": "exponential",
    }
    pipe = QwenImagePipeline(
        FlowMatchEulerDiscreteScheduler(**scheduler), vae.eval(), encoder.eval(), tokenizer(), transformer.eval()
    )
    request = {
        "prompt": "a red circle", "negative_prompt": " ", "steps": 4, "size": [48, 32], "guidance": 4.0,
        "noise": [1, 6, 16], "scheduler": scheduler,
    }
    record("qwen_image", pipe, parts, text, request, {"true_cfg_scale": 4.0})


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.inference_mode():
        z_image()
        qwen_image()

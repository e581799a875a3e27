"""Whole runs of the Wan pipelines of diffusers with small random transformers, for comparison with ours.

    python tests/reference/wan_pipelines.py [CASE ...]

Writes `tests/fixtures/pipelines/CASE`: the transformers, `model_index.json`, the scheduler, images, `case.json` with the request,
and `golden.safetensors` with the initial noise and the latents after the last step. `t2v_lora` is the small model itself with the
adapter that comes with it. Text encoder, tokenizer and, where none is
named here, the autoencoder of the others are those of `magcache-models/tiny/wan2.2-s2v-tiny`; CLIP and the residual autoencoder are
golden cases.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPVisionModel, UMT5EncoderModel

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "tests" / "fixtures" / "pipelines"
GOLDEN = ROOT / "tests" / "fixtures" / "golden"
TINY = ROOT / "magcache-models" / "tiny"
TRAINED, PARTS = "wan2.1-t2v-tiny", "wan2.2-s2v-tiny"
sys.path.insert(0, str(TINY / "train" / "world"))
import eight_bits  # noqa: E402

TASKS = {"t2v": "T2V", "i2v": "I2V", "flf2v": "FLF2V", "ti2v": "TI2V"}
PROMPT, NEGATIVE = "a red circle moving right", "a blue square"
STEPS = 6

CLIP = {"image_dim": 32, "added_kv_proj_dim": 24}
CASES = {
    "t2v_pair": {"experts": 2, "boundary": 0.875, "shift": 12.0, "guidance": [4.0, 1.0]},
    "i2v_pair": {"experts": 2, "boundary": 0.9, "shift": 5.0, "guidance": [3.5, 2.5], "pictures": 1, "in_channels": 20},
    "i2v_pair_last": {
        "experts": 2, "boundary": 0.9, "shift": 5.0, "guidance": [3.5, 3.5], "pictures": 2, "in_channels": 20,
        "weights": "i2v_pair",
    },
    "i2v_clip": {"shift": 3.0, "guidance": [5.0], "pictures": 1, "in_channels": 20, "clip": True, **CLIP},
    "flf2v_clip": {
        "shift": 3.0, "guidance": [5.0], "pictures": 2, "in_channels": 20, "clip": True, "pos_embed_seq_len": 20, **CLIP,
    },
    "ti2v_text": {"shift": 5.0, "guidance": [5.0], "residual_vae": True, "expand": True},
    "t2v_lora": {"shift": 12.0, "guidance": [1.0], "lora": "lora/4-step.safetensors", "steps": 4},
    "ti2v_image": {"shift": 5.0, "guidance": [5.0], "residual_vae": True, "expand": True, "pictures": 1},
}


def transformer(case, channels, seed):
    """Random, with weights large enough that every input matters; with an adapter the small model's."""
    if "lora" in case:
        return eight_bits.load(WanTransformer3DModel, TINY / TRAINED / "transformer")
    torch.manual_seed(seed)
    model = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=case.get("in_channels", channels), out_channels=channels,
        text_dim=64, freq_dim=16, ffn_dim=48, num_layers=2, cross_attn_norm=True, rope_max_seq_len=64,
        image_dim=case.get("image_dim"), added_kv_proj_dim=case.get("added_kv_proj_dim"),
        pos_embed_seq_len=case.get("pos_embed_seq_len"),
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.add_(torch.randn_like(parameter) * scale * 0.5)
    return model


def picture(seed, width, height):
    """Soft blobs, in 8 bits."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def make(name, case):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    residual, clip = case.get("residual_vae", False), case.get("clip", False)
    tiny = TINY / (TRAINED if "lora" in case else PARTS)
    if residual:
        vae = AutoencoderKLWan.from_pretrained(GOLDEN / "vaes" / "wan22_vae", torch_dtype=torch.float32)
    else:
        vae = eight_bits.load(AutoencoderKLWan, tiny / "vae")
    scale = vae.config.scale_factor_spatial
    width, height, frames = (12 * scale, 8 * scale, 9)
    seed = sum(case.get("weights", name).encode())
    parts = {
        "tokenizer": AutoTokenizer.from_pretrained(tiny / "tokenizer"),
        "text_encoder": UMT5EncoderModel.from_pretrained(tiny / "text_encoder"),
        "vae": vae,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=case["shift"])
        if "lora" in case
        else UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=case["shift"], num_train_timesteps=1000
        ),
        "transformer": transformer(case, vae.config.z_dim, seed),
        "expand_timesteps": case.get("expand", False),
    }
    if case.get("experts") == 2:
        parts |= {"transformer_2": transformer(case, vae.config.z_dim, seed + 1), "boundary_ratio": case["boundary"]}
    if clip:
        encoder = CLIPVisionModel.from_pretrained(GOLDEN / "text_encoders" / "clip_vision_wan_i2v")
        size = encoder.config.image_size
        crop = {"height": size, "width": size}
        processor = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size=crop)
        parts |= {"image_encoder": encoder, "image_processor": processor}
    pictures = [picture(seed + i, width, height) for i in range(case.get("pictures", 0))]
    # The image-to-video class requires an image: text alone runs through the other class, as users do.
    pipeline = (WanImageToVideoPipeline if pictures else WanPipeline)(**parts)
    pipeline.set_progress_bar_config(disable=True)
    if "lora" in case:
        pipeline.load_lora_weights(tiny / case["lora"])
        # In 32 bits the result of this trained network is off by 8e-5.
        pipeline.to(torch.float64)

    torch.manual_seed(seed)
    noise = torch.randn(1, vae.config.z_dim, 3, height // scale, width // scale)
    call = {"image": pictures[0]} if pictures else {}
    call |= {"last_image": pictures[1]} if len(pictures) > 1 else {}
    length = 512 if clip else 16
    guidance, steps = case["guidance"], case.get("steps", STEPS)
    call |= {"guidance_scale_2": guidance[1]} if len(guidance) > 1 else {}
    passes = [0]
    for part in ("transformer", "transformer_2"):
        if part in parts:
            parts[part].register_forward_hook(lambda *_: passes.__setitem__(0, passes[0] + 1))
    with torch.no_grad():
        latents = pipeline(
            prompt=PROMPT, negative_prompt=NEGATIVE, height=height, width=width, num_frames=frames, num_inference_steps=steps,
            guidance_scale=guidance[0], latents=noise.clone(), output_type="latent", max_sequence_length=length, **call,
        ).frames
    assert latents.isfinite().all() and latents.abs().max() < 50, latents.abs().max()

    for part in ("transformer", "transformer_2", "scheduler"):
        if part in parts and (not {"weights", "lora"} & case.keys() or part == "scheduler"):
            parts[part].save_pretrained(folder / part)
    index = {"_class_name": type(pipeline).__name__, "expand_timesteps": case.get("expand", False)}
    index["boundary_ratio"] = case.get("boundary")
    index |= {part: ["diffusers", type(value).__name__] for part, value in parts.items() if hasattr(value, "config")}
    (folder / "model_index.json").write_text(json.dumps(index, indent=1) + "\n")
    if clip:
        processor.save_pretrained(folder / "image_processor")
    names = ["first.png", "last.png"][: len(pictures)]
    for image, file in zip(pictures, names):
        image.save(folder / file, optimize=True)
    place = f"../../../../magcache-models/tiny/{tiny.name}/"
    places = {part: place + part for part in ("text_encoder", "tokenizer", "vae")}
    places |= {"vae": "../../golden/vaes/wan22_vae"} if residual else {}
    places |= {"image_encoder": "../../golden/text_encoders/clip_vision_wan_i2v"} if clip else {}
    if "lora" in case:
        places |= {"transformer": place + "transformer"}
    if "weights" in case:
        places |= {part: f"../{case['weights']}/{part}" for part in ("transformer", "transformer_2")}
    request = {
        "prompt": PROMPT, "negative_prompt": NEGATIVE, "steps": steps, "width": width, "height": height, "frames": frames,
        "guidance": guidance[0],
    }
    request |= {"guidance_2": guidance[1]} if len(guidance) > 1 else {}
    recorded = {
        "group": "pipelines", "case": name, "parts": dict(sorted(places.items())), "max_lengths": {"tokenizer": length},
        "request": request | {"pictures": names}, "passes": passes[0], "tolerance": 1e-4,
        "task": TASKS[name.split("_")[0]],
    }
    recorded |= {"lora": place + case["lora"]} if "lora" in case else {}
    (folder / "case.json").write_text(json.dumps(recorded, indent=1) + "\n")
    save_file({"noise": noise, "latents": latents.float().contiguous()}, folder / "golden.safetensors")
    print(name, tuple(latents.shape), f"{latents.std():.3f}")


if __name__ == "__main__":
    for name in sys.argv[1:] or CASES:
        make(name, CASES[name])

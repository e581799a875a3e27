"""Trained parts as pipelines of diffusers: to look at what they make, or to write them as folders.

    python assemble.py flux --vae work/image-vae --parts work/flux --sheet sheet.png
    python assemble.py t2v  --vae work/video-vae --parts work/t2v --sheet sheet.png
    python assemble.py pair --vae work/video-vae --parts work/high --low work/low --write FOLDER
    python assemble.py i2v  --vae work/video-vae --parts work/i2v --sheet sheet.png

Parts are folders that a trainer wrote, finished or not. A sheet has a row for each prompt, all of held-out looks: five
pictures, or every fourth frame of a clip. Transformers and autoencoders are written in [eight bits](eight_bits.py).
"""

import argparse
import json
from pathlib import Path

import eight_bits
import numpy as np
import torch
from autoencoder import load
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from draw import draw
from PIL import Image
from text import MAX_LENGTH, build_tokenizer
from transformers import CLIPTextModel, T5EncoderModel, UMT5EncoderModel
from world import FRAMES, SIZE, random_scenes

# Wan2.2 T2V A14B's schedule: 26 of 40 steps belong to the high-noise expert.
PAIR_FLOW_SHIFT, PAIR_BOUNDARY = 12.0, 0.875
FLOW_SHIFT = 3.0
FRAME_STEP = 4


def unipc(flow_shift):
    """The scheduler of the published Wan folders."""
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=flow_shift, num_train_timesteps=1000
    )


def flux(args):
    """A FluxPipeline with the schedule of the published folder."""
    scheduler = FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256,
        max_image_seq_len=4096,
    )  # fmt: skip
    return FluxPipeline(
        scheduler=scheduler,
        vae=load(args.vae),
        text_encoder=CLIPTextModel.from_pretrained(args.parts / "text_encoder"),
        tokenizer=build_tokenizer(),
        text_encoder_2=T5EncoderModel.from_pretrained(args.parts / "text_encoder_2"),
        tokenizer_2=build_tokenizer(),
        transformer=FluxTransformer2DModel.from_pretrained(args.parts / "transformer"),
    )


def wan(args):
    """The Wan pipeline of ``args.kind``."""
    own = {
        "vae": load(args.vae),
        "tokenizer": build_tokenizer(),
        "text_encoder": UMT5EncoderModel.from_pretrained(args.parts / "text_encoder"),
        "transformer": WanTransformer3DModel.from_pretrained(args.parts / "transformer"),
        "scheduler": unipc(PAIR_FLOW_SHIFT if args.kind == "pair" else FLOW_SHIFT),
    }
    if args.kind == "pair":
        low = WanTransformer3DModel.from_pretrained(args.low / "transformer")
        return WanPipeline(transformer_2=low, boundary_ratio=PAIR_BOUNDARY, **own)
    return (WanImageToVideoPipeline if args.kind == "i2v" else WanPipeline)(**own)


def write(pipeline, folder):
    """Save ``pipeline`` without the paths of this machine."""
    pipeline.save_pretrained(folder)
    for name in ("vae", "transformer", "transformer_2"):
        if getattr(pipeline, name, None) is not None:
            (folder / name / "diffusion_pytorch_model.safetensors").unlink()
            eight_bits.save(getattr(pipeline, name), folder / name)
    for path in folder.rglob("*.json"):
        config = json.loads(path.read_text())
        if isinstance(config, dict) and config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2) + "\n")


def sheet(pipeline, args):
    """Rows of samples [rows * SIZE, 5 * SIZE, 3], bytes, and their prompts."""
    still, rows = args.kind == "flux", []
    pipeline.set_progress_bar_config(disable=True)
    scenes = random_scenes(args.rows, torch.Generator().manual_seed(args.seed), unseen=True)
    prompts = scenes.prompts(motion=not still)
    call = {
        "height": SIZE, "width": SIZE, "num_inference_steps": args.steps, "guidance_scale": args.guidance,
        "max_sequence_length": MAX_LENGTH, "output_type": "np",
    }  # fmt: skip
    for row, prompt in enumerate(prompts):
        generator = torch.Generator().manual_seed(args.seed + row)
        if still:
            images = pipeline(prompt=prompt, num_images_per_prompt=5, generator=generator, **call).images
        else:
            if args.kind == "i2v":
                first = draw(scenes[torch.tensor([row])], torch.zeros(1, 1))[0, :, 0]
                call["image"] = Image.fromarray(((first + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())
            call |= {"negative_prompt": "", "num_frames": FRAMES}
            images = pipeline(prompt=prompt, generator=generator, **call).frames[0][::FRAME_STEP]
        rows.append(np.concatenate(list(images), 1))
    return (np.concatenate(rows) * 255).round().clip(0, 255).astype(np.uint8), prompts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("flux", "t2v", "pair", "i2v"))
    parser.add_argument("--vae", required=True)
    parser.add_argument("--parts", type=Path, required=True)
    parser.add_argument("--low", type=Path, help="the low-noise expert of a pair")
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--rows", type=int, default=6)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    pipeline = flux(args) if args.kind == "flux" else wan(args)
    if args.sheet:
        pixels, prompts = sheet(pipeline, args)
        Image.fromarray(pixels).save(args.sheet)
        print("\n".join(prompts))
    if args.write:
        write(pipeline, args.write)


if __name__ == "__main__":
    main()

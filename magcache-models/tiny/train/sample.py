"""Sample from one of the folders beside this one and write a sheet: one row for each prompt and seed.

    python sample.py ../wan2.1-t2v-tiny --out sheet.png
"""

import argparse
import inspect
import json
import sys
from pathlib import Path

import diffusers
import numpy as np
import torch
from export import SHARED, TEXT_TO_VIDEO
from PIL import Image
from shapes import FRAMES, SIZE, random_scenes
from text import MAX_LENGTH

sys.path.append(str(Path(__file__).parent / "world"))
import eight_bits  # noqa: E402

PROMPTS = [
    "a red circle moving right",
    "a blue square moving down",
    "a white square moving up",
    "a green triangle moving left",
    "a purple circle moving down",
    "a yellow triangle moving left and a green circle moving up",
]
FRAME_STEP = 4


def load_pipeline(folder):
    """The folder's pipeline; parts that it lists but does not hold come from the text-to-video folder."""
    folder = Path(folder)
    index = json.loads((folder / "model_index.json").read_text())
    pipeline_class = getattr(diffusers, index["_class_name"])
    parts = {}
    if any(not (folder / name).is_dir() for name in SHARED):
        donor = diffusers.WanPipeline.from_pretrained(TEXT_TO_VIDEO)
        parts = {name: getattr(donor, name) for name in SHARED if not (folder / name).is_dir()}
    for name in ("transformer", "transformer_2"):
        if (folder / name / eight_bits.FILE).exists():
            parts[name] = eight_bits.load(getattr(diffusers, index[name][1]), folder / name)
    pipeline = pipeline_class.from_pretrained(folder, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def video_row(pipeline, prompt, seed, args):
    """Every fourth frame of a sampled video, side by side; an image-to-video model is given a drawn first frame."""
    call = {"negative_prompt": "", "num_frames": FRAMES}
    if "image" in inspect.signature(pipeline.__call__).parameters:
        first = first_frame(prompt, seed)
        call["image"] = Image.fromarray(first)
    frames = pipeline(prompt=prompt, generator=torch.Generator().manual_seed(seed), **call, **args).frames[0]
    return np.concatenate([to_bytes(frame) for frame in frames[::FRAME_STEP]], 1)


def first_frame(prompt, seed):
    """The first frame [SIZE, SIZE, 3] of a drawn video that has this prompt."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        scenes = random_scenes(4096, generator)
        prompts = scenes.prompts()
        if prompt in prompts:
            pixels = scenes.draw(torch.zeros(len(prompts), 1))[prompts.index(prompt), :, 0]
            return to_bytes(((pixels + 1) / 2).permute(1, 2, 0).numpy())


def to_bytes(values):
    return (values * 255).round().clip(0, 255).astype("uint8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--out", default="sheet.png")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="how many of the prompts to sample")
    args = parser.parse_args()
    pipeline = load_pipeline(args.model)
    call = {
        "height": SIZE,
        "width": SIZE,
        "num_inference_steps": args.steps,
        "guidance_scale": args.guidance,
        "max_sequence_length": MAX_LENGTH,
        "output_type": "np",
    }
    rows = [video_row(pipeline, prompt, args.seed, call) for prompt in PROMPTS[: args.prompts]]
    sheet = Image.fromarray(np.concatenate(rows))
    sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST).save(args.out)


if __name__ == "__main__":
    main()

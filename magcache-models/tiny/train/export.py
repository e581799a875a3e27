"""Write trained parts as folders in the diffusers layout.

    python export.py t2v  --vae work/video-vae --transformer work/t2v
    python export.py pair --transformer work/high --transformer-2 work/low
    python export.py i2v  --transformer work/i2v

The pair and the image-to-video model use the text-to-video folder's vae, text_encoder and tokenizer; theirs are not
written again. Transformers and autoencoders are stored in half precision.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from text import build_tokenizer
from transformers import UMT5EncoderModel

TINY = Path(__file__).resolve().parent.parent
TEXT_TO_VIDEO = TINY / "wan2.1-t2v-tiny"
SHARED = ("vae", "text_encoder", "tokenizer")
# Wan2.2 T2V A14B's schedule: 26 of 40 steps belong to the high-noise expert.
PAIR_FLOW_SHIFT, PAIR_BOUNDARY = 12.0, 0.875
FLOW_SHIFT = 3.0


def unipc(flow_shift):
    """The scheduler of the published Wan folders."""
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=flow_shift, num_train_timesteps=1000
    )


def shared_parts():
    """The components that every Wan folder takes from the text-to-video one."""
    return {
        "tokenizer": build_tokenizer(),
        "text_encoder": UMT5EncoderModel.from_pretrained(TEXT_TO_VIDEO / "text_encoder"),
        "vae": AutoencoderKLWan.from_pretrained(TEXT_TO_VIDEO / "vae"),
    }


def wan(folder):
    return WanTransformer3DModel.from_pretrained(folder, torch_dtype=torch.float16)


def text_to_video(args):
    """wan2.1-t2v-tiny: complete."""
    parts = shared_parts()
    if args.vae:
        parts["vae"] = AutoencoderKLWan.from_pretrained(args.vae)
    parts["vae"].half()
    transformer = wan(args.transformer or TEXT_TO_VIDEO / "transformer")
    write(WanPipeline(transformer=transformer, scheduler=unipc(FLOW_SHIFT), **parts), TEXT_TO_VIDEO)


def pair(args):
    """wan2.2-t2v-tiny: ``transformer`` above the boundary, ``transformer_2`` below it."""
    pipeline = WanPipeline(
        transformer=wan(args.transformer),
        transformer_2=wan(args.transformer_2),
        scheduler=unipc(PAIR_FLOW_SHIFT),
        boundary_ratio=PAIR_BOUNDARY,
        **shared_parts(),
    )
    write(pipeline, TINY / "wan2.2-t2v-tiny", leave_out=SHARED)


def image_to_video(args):
    """wan2.2-i2v-tiny: one transformer in the input form of Wan2.2 I2V A14B, without an image encoder."""
    pipeline = WanImageToVideoPipeline(
        transformer=wan(args.transformer), scheduler=unipc(FLOW_SHIFT), **shared_parts()
    )
    write(pipeline, TINY / "wan2.2-i2v-tiny", leave_out=SHARED)


def write(pipeline, folder, leave_out=()):
    """Replace ``folder`` by the saved pipeline without the parts in ``leave_out``."""
    shutil.rmtree(folder, ignore_errors=True)
    pipeline.save_pretrained(folder)
    for name in leave_out:
        shutil.rmtree(folder / name)
    for path in folder.rglob("*.json"):
        config = json.loads(path.read_text())
        # A path of the machine that exported, of no use to anybody else.
        if isinstance(config, dict) and config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = {"t2v": text_to_video, "pair": pair, "i2v": image_to_video}
    parser.add_argument("kind", choices=kinds)
    for name in ("vae", "transformer", "transformer-2"):
        parser.add_argument(f"--{name}")
    args = parser.parse_args()
    kinds[args.kind](args)


if __name__ == "__main__":
    main()

"""The folders that ship, as pipelines of diffusers, and the pictures that image to video is given."""

import json
from pathlib import Path

import diffusers
import eight_bits
import torch
from draw import draw
from PIL import Image
from world import COLOURS, MOTIONS, PANS, PLACES, SHAPES, TEXTURES, parse, random_scenes

TINY = Path(__file__).resolve().parents[2]
# A folder that lacks one of these shares that of text to video.
SHARED = ("vae", "text_encoder", "tokenizer")


def load_pipeline(name):
    """The pipeline of an embedded model in 32 bits."""
    folder = TINY / name
    index = json.loads((folder / "model_index.json").read_text())
    parts = {}
    if any(not (folder / part).is_dir() for part in SHARED):
        donor = load_pipeline("wan2.1-t2v-tiny")
        parts = {part: getattr(donor, part) for part in SHARED if not (folder / part).is_dir()}
    for part in ("vae", "transformer", "transformer_2"):
        if (folder / part / eight_bits.FILE).exists():
            parts[part] = eight_bits.load(getattr(diffusers, index[part][1]), folder / part)
    pipeline = getattr(diffusers, index["_class_name"]).from_pretrained(folder, torch_dtype=torch.float32, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def first_frame(prompt, seed):
    """The first frame of a clip that has this prompt: a random scene of its motions, in which its objects are put."""
    things, place, pan = parse(prompt)
    scenes = random_scenes(8192, torch.Generator().manual_seed(seed))
    fits = (scenes.present.sum(1) == len(things)) & (scenes.pan.sign() == PANS[pan])
    for k, (_, _, _, motion) in enumerate(things):
        fits &= scenes.motion[:, k] == list(MOTIONS).index(motion)
    scene = scenes[fits.nonzero()[:1, 0]]
    for k, (colour, texture, shape, _) in enumerate(things):
        scene.colour[0, k] = list(COLOURS).index(colour)
        scene.texture[0, k] = TEXTURES.index(texture)
        scene.shape[0, k] = SHAPES.index(shape)
    scene.place[0] = list(PLACES).index(place)
    pixels = draw(scene, torch.zeros(1, 1))[0, :, 0]
    return Image.fromarray(((pixels + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())

"""The grammar that fidelity.py judges, as data: what prompts say and how it is drawn.

It is defined by the scripts that draw training data, in magcache-models/tiny/train/world; nothing here knows a network.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

TRAIN = Path(__file__).resolve().parents[2] / "magcache-models/tiny/train/world"
sys.path.insert(0, str(TRAIN))

import draw  # noqa: E402
import world  # noqa: E402


@dataclass(frozen=True)
class Thing:
    """An object that a prompt asks for; prompts of pictures leave the motion out."""

    colour: str
    shape: str
    motion: str | None
    texture: str


def as_bytes(clips):
    """Pixels [batch, 3, frames, height, width] in [-1, 1] as bytes [batch, frames, height, width, 3]."""
    return ((clips + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 4, 1).numpy()


def mixes(ends, tones=(1.0,)):
    """Colours on the way from the first to the last of ``ends``, each at every tone."""
    ends = np.array(ends, float)
    between = [ends[0] + (ends[-1] - ends[0]) * part for part in np.linspace(0, 1, 5)]
    return np.array([colour * tone for colour in between for tone in tones])


class Grammar:
    """The grammar of `world.py`; prompts that tests ask for have an object of a look that training never shows."""

    size = world.SIZE
    colours = world.COLOURS  # word to RGB
    tones = (1.0, 0.8, 0.6, 0.42)  # by how much objects may be darker than their colour
    # place to RGB colours that a background has there
    grounds = {place: mixes(ends, (1.15, 1.0, 0.85, 0.6, 0.35)) for place, ends in world.PLACES.items()}
    silhouettes = tuple(shape for shape in world.SHAPES if shape != "ball")  # shapes that differ in their outline
    turns = world.SYMMETRY  # shape to the number of turns that leave it as it is; 0 for any turn
    radius = 0.185 * world.SIZE  # of a usual object

    def outline(self, shape, x, y, radius):
        """Distance to the edge of shapes around the origin, negative inside: [tries, height, width]."""
        return draw.signed_distance(shape, x, y, radius)

    def parse(self, prompt):
        """The objects of a prompt and its place."""
        objects, place, _ = world.parse(prompt)
        return [Thing(colour, shape, motion, texture) for colour, texture, shape, motion in objects], place

    def scenes(self, count, seed, motion=True):
        """Prompts that tests ask for, and a function that draws one of them as frames [frames, height, width, 3]."""
        scenes = world.random_scenes(4 * count, torch.Generator().manual_seed(seed), unseen=True)
        kept = {}
        for row, prompt in enumerate(scenes.prompts(motion)):
            if len(kept) < count:
                kept.setdefault(prompt, row)

        def clip(prompt):
            one = scenes[torch.tensor([kept[prompt]])]
            if motion:
                return as_bytes(draw.whole_clips(one))[0]
            return as_bytes(draw.pictures(one, torch.Generator().manual_seed(seed))[:, :, None])[0]

        return list(kept), clip


def rotations(turns):
    """Angles to try for a shape of so many turns (see ``Grammar.turns``)."""
    if turns == 0:
        return [0.0]
    return [2 * math.pi / turns * i / 10 for i in range(10)]

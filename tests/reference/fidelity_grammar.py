"""The two grammars that fidelity.py can judge, as data: what prompts say and how it is drawn.

``shapes`` is that of the embedded models, 64x64, and ``world`` that of their successors, 128x128. Both are defined by
the scripts that draw training data, in magcache-models/tiny/train; nothing here knows a network.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

TRAIN = Path(__file__).resolve().parents[2] / "magcache-models/tiny/train"
sys.path[:0] = [str(TRAIN), str(TRAIN / "world")]

import draw  # noqa: E402
import shapes  # noqa: E402
import world  # noqa: E402


@dataclass(frozen=True)
class Thing:
    """An object that a prompt asks for, or that was seen; what a grammar lacks, or nothing was seen of, is None."""

    colour: str
    shape: str
    motion: str | None = None
    texture: str | None = None


class Grammar:
    """What fidelity.py needs to know of a world."""

    name: str
    size: int
    colours: dict  # word to RGB
    tones: tuple  # by how much objects may be darker than their colour
    grounds: dict  # place to RGB colours that a background has there
    silhouettes: tuple  # shapes that differ in their outline
    turns: dict  # shape to the number of turns that leave it as it is; 0 for any turn, None if it is never turned
    radius: float  # of a usual object

    def outline(self, shape, x, y, radius):
        """Distance to the edge of shapes around the origin, negative inside: [tries, height, width]."""
        raise NotImplementedError

    def parse(self, prompt):
        """The objects of a prompt and its place."""
        raise NotImplementedError

    def scenes(self, count, seed, motion=True):
        """Prompts that tests ask for, and a function that draws one of them as frames [frames, height, width, 3]."""
        raise NotImplementedError


def as_bytes(clips):
    """Pixels [batch, 3, frames, height, width] in [-1, 1] as bytes [batch, frames, height, width, 3]."""
    return ((clips + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 4, 1).numpy()


def mixes(ends, tones=(1.0,)):
    """Colours on the way from the first to the last of ``ends``, each at every tone."""
    ends = np.array(ends, float)
    between = [ends[0] + (ends[-1] - ends[0]) * part for part in np.linspace(0, 1, 5)]
    return np.array([colour * tone for colour in between for tone in tones])


class Shapes(Grammar):
    """`a COLOUR SHAPE moving DIRECTION [and ...]`: plain shapes that are never turned, on one background."""

    name, size = "shapes", shapes.SIZE
    colours, tones = shapes.COLOURS, (1.0, 0.8)
    grounds = {None: mixes([shapes.BACKGROUND_TOP, shapes.BACKGROUND_BOTTOM])}
    silhouettes = shapes.SHAPES
    turns = dict.fromkeys(shapes.SHAPES)
    radius = 0.14 * shapes.SIZE

    def outline(self, shape, x, y, radius):
        kind = torch.full((len(radius),), shapes.SHAPES.index(shape))
        return shapes.signed_distance(kind, x[:, None], y[:, None], radius)[:, 0]

    def parse(self, prompt):
        things = []
        for phrase in prompt.split(" and "):
            _, colour, shape, *motion = phrase.split()
            things.append(Thing(colour, shape, " ".join(motion) or None))
        return things, None

    def scenes(self, count, seed, motion=True):
        scenes = shapes.random_scenes(4 * count, torch.Generator().manual_seed(seed))
        prompts, kept = scenes.prompts(motion), {}
        for row, prompt in enumerate(prompts):
            two = scenes.present[row, 1] and scenes.colour[row, 0] == scenes.colour[row, 1]
            if not two and len(kept) < count:
                kept.setdefault(prompt, row)
        times = torch.arange(shapes.FRAMES, dtype=torch.float32).expand(len(prompts), shapes.FRAMES)
        clips = as_bytes(scenes.draw(times if motion else times[:, 8:9]))
        return list(kept), lambda prompt: clips[kept[prompt]]


class World(Grammar):
    """The grammar of `world.py`; prompts that tests ask for have an object of a look that training never shows."""

    name, size = "world", world.SIZE
    colours, tones = world.COLOURS, (1.0, 0.8, 0.6, 0.42)
    grounds = {place: mixes(ends, (1.15, 1.0, 0.85, 0.6, 0.35)) for place, ends in world.PLACES.items()}
    silhouettes = tuple(shape for shape in world.SHAPES if shape != "ball")
    turns = world.SYMMETRY
    radius = 0.185 * world.SIZE

    def outline(self, shape, x, y, radius):
        return draw.signed_distance(shape, x, y, radius)

    def parse(self, prompt):
        objects, place, _ = world.parse(prompt)
        return [Thing(colour, shape, motion, texture) for colour, texture, shape, motion in objects], place

    def scenes(self, count, seed, motion=True):
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


GRAMMARS = {grammar.name: grammar for grammar in (Shapes(), World())}


def rotations(turns):
    """Angles to try for a shape of so many turns (see ``Grammar.turns``)."""
    if turns is None or turns == 0:
        return [0.0]
    return [2 * math.pi / turns * i / 10 for i in range(10)]

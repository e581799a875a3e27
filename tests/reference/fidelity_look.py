"""What is seen in a clip: objects with colour, outline, texture and motion, by who knows a grammar and no prompt."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from fidelity_grammar import rotations
from scipy import ndimage

SMALLEST = 0.2  # of a usual object: less is a speck
STILL = 0.07  # of the picture's size: less is no motion


@dataclass
class Seen:
    """One object. ``fits`` is the best IoU of each outline, ``parts`` is of how many pieces it is in most frames."""

    colour: str
    shape: str
    fits: dict
    texture: str
    motion: str | None
    parts: int


def classes(frames, grammar):
    """Index of each pixel's colour [frames, height, width], or -1 where it is background; and the place."""
    kinds, rows = [], []
    for index, colour in enumerate(grammar.colours.values()):
        rows += [np.array(colour) * tone for tone in grammar.tones]
        kinds += [index] * len(grammar.tones)
    for place, colours in enumerate(grammar.grounds.values()):
        rows += list(colours)
        kinds += [-1 - place] * len(colours)
    kinds, rows = np.array(kinds), torch.tensor(np.array(rows), dtype=torch.float32)
    pixels = torch.from_numpy(frames.reshape(-1, 3).astype(np.float32))
    nearest = torch.cat([torch.cdist(part, rows).argmin(1) for part in pixels.split(65536)]).numpy()
    found = kinds[nearest].reshape(frames.shape[:3])
    places = list(grammar.grounds)
    counts = [(found == -1 - i).sum() for i in range(len(places))]
    return np.maximum(found, -1), places[int(np.argmax(counts))]


def pieces(mask, others, smallest):
    """Of how many pieces a mask is; ones that only something in front separates are one."""
    joined, count = ndimage.label(mask | others, np.ones((3, 3)))
    areas = np.bincount(joined[mask], minlength=count + 1)
    return int((areas >= smallest).sum())


def without_specks(mask, smallest):
    """A mask without its small pieces, and without the thin lines that two colours leave between them."""
    opened = ndimage.binary_opening(mask, np.ones((2, 2)))
    joined, count = ndimage.label(opened, np.ones((3, 3)))
    areas = np.bincount(joined.ravel(), minlength=count + 1)
    areas[0] = 0
    return np.isin(joined, np.flatnonzero(areas >= smallest / 4))


def fit(mask, free, shape, grammar):
    """The best IoU of an outline with a mask, its middle, radius and angle; ``free`` pixels do not count."""
    ys, xs = np.nonzero(mask)
    edge = int(0.5 * math.sqrt(len(xs)))
    part = tuple(slice(max(0, axis.min() - edge), axis.max() + edge) for axis in (ys, xs))
    mask, free, (ys, xs) = mask[part], free[part], np.nonzero(mask[part])
    height, width = mask.shape
    axis_x, axis_y = (torch.arange(n, dtype=torch.float32) + 0.5 for n in (width, height))
    target, counts = torch.from_numpy(mask), torch.from_numpy(~free)
    middle = (float(xs.mean()) + 0.5, float(ys.mean()) + 0.5)
    guess = math.sqrt(len(xs) / AREA[shape])
    turns, best = rotations(grammar.turns[shape]), None
    reach = 0.25 * guess
    for step in range(3):
        if step == 0:
            radii = [guess * part for part in (0.9, 1.0, 1.12, 1.3)]
            angles = turns
            offsets = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        else:
            reach /= 2.5
            radii = [best[2] * (1 + part * 0.12 / step) for part in (-0.5, 0, 0.5)]
            spread = (turns[1] - turns[0]) / 2 / step if len(turns) > 1 else 0
            angles = [best[3] + part * spread for part in (-0.7, 0, 0.7)] if spread else [best[3]]
            middle, offsets = best[1], [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        tries = [
            (middle[0] + reach * i, middle[1] + reach * j, radius, angle)
            for i, j in offsets for radius in radii for angle in angles
        ]  # fmt: skip
        x, y, radius, angle = (torch.tensor(column).view(-1, 1, 1) for column in zip(*tries))
        # Every second pixel is enough to begin with.
        skip = slice(None, None, 2 if step == 0 else 1)
        dx, dy = axis_x[skip] - x, axis_y[skip, None] - y
        wanted, counted = target[skip, skip], counts[skip, skip]
        u, v = dx * angle.cos() + dy * angle.sin(), dy * angle.cos() - dx * angle.sin()
        inside = (grammar.outline(shape, u, v, radius) < 0) & counted
        both = (inside & wanted).sum((1, 2))
        either = (inside | (wanted & counted)).sum((1, 2)).clamp(min=1)
        overlap = both / either
        top = int(overlap.argmax())
        if step < 2 or overlap[top] > best[0]:
            best = (float(overlap[top]), tries[top][:2], tries[top][2], tries[top][3])
    return best


# Directions of a pattern that are tried in a quarter turn.
ANGLES = 12
# Area of each outline at radius 1.
AREA = {"circle": 3.14, "square": 2.8, "triangle": 1.75, "star": 1.85, "ring": 2.4}


def texture_of(tone, mask, radius):
    """The texture's word and whether the object is shaded as a ball, from brightness [height, width] inside a mask."""
    ys, xs = np.nonzero(mask)
    if len(ys) < 40:
        return "plain", False
    value = tone[ys, xs]
    x, y = (xs - xs.mean()) / radius, (ys - ys.mean()) / radius
    smooth = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], 1)
    weights = np.linalg.lstsq(smooth, value, rcond=None)[0]
    rest = value - smooth @ weights
    slope = math.hypot(weights[1], weights[2])
    if rest.std() < 0.1 * max(0.3, value.mean()):
        return "plain", slope > 0.12
    total = (rest**2).sum()

    def explained(columns):
        columns = np.stack(columns, 1)
        return 1 - ((rest - columns @ np.linalg.lstsq(columns, rest, rcond=None)[0]) ** 2).sum() / total

    stripes = checks = 0.0
    base = 2 * math.pi / 0.62
    for turn in range(2 * ANGLES):
        angle = math.pi * turn / (2 * ANGLES)
        u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
        for scale in (0.85, 1.0, 1.18):
            k = base * scale
            stripes = max(stripes, explained([np.cos(k * u), np.sin(k * u)]))
            if turn < ANGLES:
                k = 0.8 * base * scale
                waves = [f(k * u) * g(k * v) for f in (np.cos, np.sin) for g in (np.cos, np.sin)]
                checks = max(checks, explained(waves))
    if max(stripes, checks) < 0.42:
        return "speckled", False
    # A single wave explains at most half of a product of two.
    return ("striped" if stripes > 0.72 * checks else "checked"), False


def motion_of(masks, tone, areas, size):
    """The word of a motion from one object's masks [frames, height, width], or None if there is too little to tell."""
    good = np.flatnonzero(areas >= 0.6 * areas.max())
    if len(masks) == 1 or len(good) < 2 or good[-1] - good[0] < len(masks) // 4:
        return None
    middles = np.array([ndimage.center_of_mass(masks[frame]) for frame in good])
    speed = [np.polyfit(good, middles[:, axis], 1)[0] * (len(masks) - 1) for axis in (1, 0)]
    if max(map(abs, speed)) >= STILL * size:
        across = abs(speed[0]) > abs(speed[1])
        return ("moving right" if speed[0] > 0 else "moving left") if across else (
            "moving down" if speed[1] > 0 else "moving up"
        )
    first = good[0]
    change = 0.0
    for frame in good[1:]:
        both, either = masks[first] & masks[frame], masks[first] | masks[frame]
        outline = 1 - both.sum() / max(1, either.sum())
        inside = np.abs(tone[first] - tone[frame])[both].mean() if both.any() else 0.0
        change = max(change, outline, inside)
    return "spinning" if change > 0.08 else "still"


def clearest(mask, areas, others):
    """Of each third of a clip, the frame where an object is largest and touches the others least."""
    touching = [(ndimage.binary_dilation(own, iterations=2) & other).sum() for own, other in zip(mask, others)]
    clear = np.where(areas >= areas.max() / 2, areas - 0.5 * np.array(touching), -np.inf)
    parts = np.array_split(np.arange(len(mask)), min(3, len(mask)))
    return [int(part[np.argmax(clear[part])]) for part in parts if np.isfinite(clear[part].max())]


def fits_in(frame, mask, others, grammar):
    """How all outlines fit an object in one frame: the frame, the object's mask there, and the fits."""
    whole = ndimage.binary_closing(mask[frame], np.ones((3, 3))) & ~others[frame] | mask[frame]
    free = ndimage.binary_dilation(others[frame]) & ~whole
    return frame, whole, {shape: fit(whole, free, shape, grammar) for shape in grammar.silhouettes}


def look(frames, grammar):
    """The objects seen in frames [frames, height, width, 3] (bytes), and the place."""
    found, place = classes(frames, grammar)
    usual = 2.3 * grammar.radius**2
    masks, seen = {}, []
    for index, colour in enumerate(grammar.colours):
        mask = np.stack([without_specks(frame == index, SMALLEST * usual) for frame in found])
        areas = mask.sum((1, 2))
        # Something in front may hide an object for half of the time, but not for all of it.
        if np.quantile(areas, 0.7) >= SMALLEST * usual:
            masks[colour] = (mask, areas)
    for colour, (mask, areas) in masks.items():
        others = np.zeros_like(mask)
        for other, (own, _) in masks.items():
            if other != colour:
                others |= own
        frame, whole, fits = max(
            (fits_in(frame, mask, others, grammar) for frame in clearest(mask, areas, others)),
            key=lambda tried: max(value[0] for value in tried[2].values()),
        )
        best = max(fits, key=lambda shape: fits[shape][0])
        rgb = np.array(grammar.colours[colour], float)
        tone = frames.astype(float) @ rgb / (rgb @ rgb)
        texture, shaded = texture_of(tone[frame], ndimage.binary_erosion(whole, iterations=2), fits[best][2])
        shape = "ball" if shaded and best == "circle" else best
        ious = {name: value[0] for name, value in fits.items()}
        ious["ball"] = ious["circle"]
        motion = motion_of(mask, tone, areas, grammar.size)
        parts = [pieces(m, o, SMALLEST * usual) for m, o, a in zip(mask, others, areas) if a >= SMALLEST * usual]
        seen.append(Seen(colour, shape, ious, texture, motion, int(np.median(parts))))
    return seen, place

"""Draws scenes of `world.py`: edges one pixel wide, textures that turn with their object, balls, shadows, backgrounds.

    python draw.py --out sheet.png        # five frames of random scenes, to look at
"""

import argparse
import math

import torch
from world import BALL, COLOURS, FRAMES, OBJECTS, PLACES, SHAPES, SIZE, TEXTURES, random_scenes

DARK = 0.45  # brightness of the darker tone of a texture
SHADOW = 0.55  # how much darker the middle of a shadow is
LIGHT = (-0.45, -0.6, 0.66)  # direction to the light, of unit length: from the upper left


def signed_distance(shape, x, y, radius):
    """Distance in pixels to the edge of a shape (a word) around the origin, negative inside."""
    if shape in ("circle", "ball"):
        return torch.hypot(x, y) - radius
    if shape == "ring":
        return (torch.hypot(x, y) - 0.74 * radius).abs() - 0.26 * radius
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - 0.84 * radius
    if shape == "triangle":
        return torch.maximum(0.866 * x.abs() - 0.5 * y, y) - 0.58 * radius
    return star(x, y, 1.12 * radius)


def star(x, y, radius):
    """A five-pointed star, by folding the plane into one half of a point."""
    turn = torch.atan2(x, -y)
    fold = (turn - (turn / (0.4 * math.pi)).round() * (0.4 * math.pi)).abs()
    length = torch.hypot(x, y)
    along, beside = length * fold.cos(), length * fold.sin()
    # The edge runs from the tip at `radius` to the inner corner, at half of it and a tenth of a turn.
    corner = (0.5 * math.cos(0.2 * math.pi), 0.5 * math.sin(0.2 * math.pi))
    norm = math.hypot(1 - corner[0], corner[1])
    return ((along - radius) * corner[1] + beside * (1 - corner[0])) / norm


def lattice_noise(x, y, seed):
    """Smooth noise in [0, 1] with one random value at every whole point of the plane; ``seed`` moves it."""

    def value(i, j):
        mixed = torch.sin(i * 12.9898 + j * 78.233 + seed) * 43758.547
        return mixed - mixed.floor()

    i, j = x.floor(), y.floor()
    u, v = x - i, y - j
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    top = torch.lerp(value(i, j), value(i + 1, j), u)
    bottom = torch.lerp(value(i, j + 1), value(i + 1, j + 1), u)
    return torch.lerp(top, bottom, v)


def square_wave(phase, sharpness):
    """Sine of ``phase`` cut to [-1, 1] with edges about one pixel wide."""
    return (sharpness * torch.sin(phase)).clamp(-1, 1)


def brightness(texture, x, y, radius, grain):
    """What a texture (a word) multiplies its colour with at a place of the object."""
    stripes = 2 * math.pi / (0.62 * radius)
    sharp = 1.2 / stripes
    if texture == "striped":
        wave = square_wave(x * stripes, sharp)
    elif texture == "checked":
        wave = square_wave(x * stripes * 0.8, sharp) * square_wave(y * stripes * 0.8, sharp)
    elif texture == "speckled":
        wave = 2.6 * (lattice_noise(4.2 * x / radius, 4.2 * y / radius, grain) - 0.5)
        wave = wave.clamp(-1, 1)
    else:
        return torch.ones_like(x)
    return 1 - (1 - DARK) * (0.5 - 0.5 * wave)


def shading(x, y, radius):
    """Light on a sphere: diffuse from LIGHT, with a highlight that makes it exceed one."""
    height = (1 - (x.square() + y.square()) / radius**2).clamp(min=0).sqrt()
    facing = LIGHT[0] * x / radius + LIGHT[1] * y / radius + LIGHT[2] * height
    return 0.3 + 0.72 * facing.clamp(min=0) + 0.5 * facing.clamp(min=0) ** 24


def background(scenes, x, y, times):
    """Colours [batch, 3, frames, height, width]: a gradient, and a faint pattern that passes when the camera pans."""
    tops, bottoms = (torch.tensor([pair[end] for pair in PLACES.values()], dtype=torch.float32) for end in (0, 1))
    blend = (y / SIZE)[:, None]
    top, bottom = (ends[scenes.place].view(-1, 3, 1, 1, 1) for ends in (tops, bottoms))
    u = x + (scenes.pan[:, None] * times)[..., None, None] + scenes.ground[:, 0].view(-1, 1, 1, 1)
    seed = scenes.ground[:, 1].view(-1, 1, 1, 1)
    waves = torch.sin(u * 0.09 + 3 * torch.sin(0.05 * y + seed)) + torch.sin(0.16 * y - 0.05 * u + seed)
    return torch.lerp(top, bottom, blend) + 6 * waves[:, None]


def draw(scenes, times, origin=None, size=SIZE):
    """Pixels [batch, 3, frames, size, size] in [-1, 1] at ``times`` [batch, frames].

    ``origin`` [batch, xy] is the corner of a part of the picture; without it, the whole is drawn.
    """
    batch, frames = times.shape
    origin = torch.zeros(batch, 2) if origin is None else origin
    axis = torch.arange(size, dtype=torch.float32) + 0.5
    x = (origin[:, 0, None] + axis).view(batch, 1, 1, size).expand(batch, frames, size, size)
    y = (origin[:, 1, None] + axis).view(batch, 1, size, 1).expand(batch, frames, size, size)
    pixels = background(scenes, x, y, times)
    palette = torch.tensor(list(COLOURS.values()), dtype=torch.float32)
    centre = scenes.start[:, :, None] + scenes.velocity[:, :, None] * times[:, None, :, None]
    for k in range(OBJECTS):
        for row in torch.nonzero(scenes.present[:, k] & (scenes.shape[:, k] == BALL)).flatten().tolist():
            radius = scenes.radius[row, k]
            dx = (x[row] - centre[row, k, :, 0, None, None] - 0.35 * radius) / (1.1 * radius)
            dy = (y[row] - centre[row, k, :, 1, None, None] - 0.95 * radius) / (0.45 * radius)
            pixels[row] *= 1 - SHADOW * (1.6 * (1 - torch.hypot(dx, dy))).clamp(0, 1)
    for k in reversed(range(OBJECTS)):
        for row in torch.nonzero(scenes.present[:, k]).flatten().tolist():
            cover, tone = one_object(scenes, row, k, centre[row, k], x[row], y[row], times[row])
            colour = palette[scenes.colour[row, k]].view(3, 1, 1, 1) * tone
            pixels[row] = torch.lerp(pixels[row], colour.clamp(max=255), cover)
    return pixels / 127.5 - 1


def one_object(scenes, row, k, centre, x, y, times):
    """How much of each pixel [frames, height, width] object ``k`` of a scene covers, and its brightness there."""
    radius, shape = scenes.radius[row, k], SHAPES[scenes.shape[row, k]]
    dx, dy = x - centre[:, 0, None, None], y - centre[:, 1, None, None]
    turn = (scenes.angle[row, k] + scenes.spin[row, k] * times)[:, None, None]
    u, v = dx * turn.cos() + dy * turn.sin(), dy * turn.cos() - dx * turn.sin()
    # Half a pixel on either side of the edge is blended.
    cover = (0.5 - signed_distance(shape, u, v, radius)).clamp(0, 1)
    if shape == "ball":
        return cover, shading(dx, dy, radius)
    return cover, brightness(TEXTURES[scenes.texture[row, k]], u, v, radius, scenes.grain[row, k])


def whole_clips(scenes):
    """All frames of every scene, [batch, 3, FRAMES, SIZE, SIZE]."""
    return draw(scenes, torch.arange(FRAMES, dtype=torch.float32).expand(len(scenes), FRAMES))


def pictures(scenes, generator):
    """Of every scene the one of three random moments [batch, 3, SIZE, SIZE] in which its objects are farthest apart."""
    times = torch.rand(len(scenes), 3, generator=generator) * (FRAMES - 1)
    centre = scenes.start[:, :, None] + scenes.velocity[:, :, None] * times[:, None, :, None]
    apart = (centre[:, 0] - centre[:, 1]).norm(dim=-1)
    return draw(scenes, times.gather(1, apart.argmax(1, keepdim=True)))[:, :, 0]


def crops(batch, frames, size, generator):
    """Parts [batch, 3, frames, size, size] of random clips at random times, around one of their objects as a rule."""
    scenes = random_scenes(batch, generator)
    first = torch.randint(FRAMES - frames + 1, (batch, 1), generator=generator)
    times = first + torch.arange(frames, dtype=torch.float32)
    k = torch.randint(OBJECTS, (batch,), generator=generator) * scenes.present[:, 1]
    rows = torch.arange(batch)
    middle = scenes.start[rows, k] + scenes.velocity[rows, k] * times.mean(1, keepdim=True)
    origin = middle - size / 2 + 0.4 * size * torch.randn(batch, 2, generator=generator)
    return draw(scenes, times, origin.clamp(0, SIZE - size).round(), size)


def main():
    import numpy as np
    from PIL import Image

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="sheet.png")
    parser.add_argument("--scenes", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    scenes = random_scenes(args.scenes, torch.Generator().manual_seed(args.seed))
    clips = whole_clips(scenes)[:, :, ::4]
    sheet = clips.permute(0, 3, 2, 4, 1).reshape(args.scenes * SIZE, -1, 3)
    Image.fromarray(((sheet + 1) * 127.5).round().clamp(0, 255).numpy().astype(np.uint8)).save(args.out)
    print("\n".join(scenes.prompts()))


if __name__ == "__main__":
    main()

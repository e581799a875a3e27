"""Training data: drawn videos of one or two moving shapes, each with the sentence that describes it.

Grammar: ``a COLOUR SHAPE moving DIRECTION [and a COLOUR SHAPE moving DIRECTION]``. Nothing is downloaded; a seed fixes
every video. Distances are in pixels, times in frames.
"""

from dataclasses import dataclass

import torch

COLOURS = {
    "red": (230, 50, 50),
    "green": (50, 190, 80),
    "blue": (60, 90, 230),
    "yellow": (240, 210, 60),
    "white": (240, 240, 240),
    "purple": (160, 70, 200),
}
SHAPES = ("circle", "square", "triangle")
DIRECTIONS = {"right": (1, 0), "left": (-1, 0), "up": (0, -1), "down": (0, 1)}

SIZE = 64
FRAMES = 17
MAX_SHAPES = 2
SECOND_SHAPE_PROBABILITY = 0.4
BACKGROUND_TOP = (18.0, 20.0, 32.0)
BACKGROUND_BOTTOM = (40.0, 46.0, 72.0)


@dataclass
class Scenes:
    """A batch of scenes; shape ``k`` of scene ``b`` exists where ``present[b, k]``, and later shapes cover earlier ones."""

    colour: torch.Tensor  # [batch, 2] index into COLOURS
    kind: torch.Tensor  # [batch, 2] index into SHAPES
    direction: torch.Tensor  # [batch, 2] index into DIRECTIONS
    present: torch.Tensor  # [batch, 2] bool
    radius: torch.Tensor  # [batch, 2]
    start: torch.Tensor  # [batch, 2, xy] centre in the first frame
    velocity: torch.Tensor  # [batch, 2, xy] pixels per frame

    def draw(self, times):
        """Draw every scene at ``times`` [batch, frames]: pixels [batch, 3, frames, SIZE, SIZE] in [-1, 1]."""
        axis = torch.arange(SIZE, dtype=torch.float32) + 0.5
        blend = (axis / SIZE).view(1, 1, 1, SIZE, 1)
        top, bottom = (torch.tensor(c).view(1, 3, 1, 1, 1) for c in (BACKGROUND_TOP, BACKGROUND_BOTTOM))
        batch, frames = times.shape
        pixels = (top + (bottom - top) * blend).expand(batch, 3, frames, SIZE, SIZE)
        palette = torch.tensor(list(COLOURS.values()), dtype=torch.float32)
        for k in range(MAX_SHAPES):
            centre = self.start[:, k, None] + self.velocity[:, k, None] * times[..., None]
            dx = axis.view(1, 1, 1, SIZE) - centre[..., 0, None, None]
            dy = axis.view(1, 1, SIZE, 1) - centre[..., 1, None, None]
            distance = signed_distance(self.kind[:, k], dx, dy, self.radius[:, k])
            # Half a pixel on either side of the edge is blended, so edges are smooth.
            cover = (0.5 - distance).clamp(0, 1) * self.present[:, k].view(-1, 1, 1, 1)
            cover = cover[:, None]
            pixels = pixels * (1 - cover) + palette[self.colour[:, k]].view(-1, 3, 1, 1, 1) * cover
        return pixels / 127.5 - 1


def signed_distance(kind, dx, dy, radius):
    """Signed distance [batch, frames, SIZE, SIZE] to the edge of each scene's shape, negative inside."""
    radius = radius.view(-1, 1, 1, 1)
    circle = torch.sqrt(dx.square() + dy.square()) - radius
    square = torch.maximum(dx.abs(), dy.abs()) - 0.9 * radius
    triangle = torch.maximum(0.866 * dx.abs() + 0.5 * dy, -dy) - 0.6 * radius
    kind = kind.view(-1, 1, 1, 1)
    return torch.where(kind == 0, circle, torch.where(kind == 1, square, triangle))


def random_scenes(batch, generator):
    """Draw ``batch`` scenes at random; a shape stays inside the picture on its way where there is room."""

    def uniform(low, high, shape):
        return low + (high - low) * torch.rand(shape, generator=generator)

    shape = (batch, MAX_SHAPES)
    direction = torch.randint(len(DIRECTIONS), shape, generator=generator)
    heading = torch.tensor(list(DIRECTIONS.values()), dtype=torch.float32)[direction]
    radius = uniform(0.11, 0.17, shape) * SIZE
    speed = uniform(0.4, 0.75, shape) * SIZE / FRAMES
    across = radius + (SIZE - 2 * radius) * torch.rand(shape, generator=generator)
    room = (SIZE - 2 * radius - speed * (FRAMES - 1)).clamp(min=0)
    along = radius + room * torch.rand(shape, generator=generator)
    # `along` is measured from the side the shape comes from.
    start = torch.where(heading == 0, across[..., None], along[..., None])
    start = torch.where(heading < 0, SIZE - start, start)
    present = torch.ones(shape, dtype=torch.bool)
    present[:, 1] = torch.rand(batch, generator=generator) < SECOND_SHAPE_PROBABILITY
    return Scenes(
        colour=torch.randint(len(COLOURS), shape, generator=generator),
        kind=torch.randint(len(SHAPES), shape, generator=generator),
        direction=direction,
        present=present,
        radius=radius,
        start=start,
        velocity=heading * speed[..., None],
    )


def random_videos(batch, generator):
    """Videos [batch, 3, FRAMES, SIZE, SIZE] in [-1, 1]."""
    scenes = random_scenes(batch, generator)
    times = torch.arange(FRAMES, dtype=torch.float32).expand(batch, FRAMES)
    return scenes.draw(times)

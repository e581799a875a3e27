"""The drawn world that the models learn: what a scene holds, and the sentence that describes it.

    a COLOUR [TEXTURE] SHAPE MOTION [and a COLOUR [TEXTURE] SHAPE MOTION] PLACE [panning left | panning right]

MOTION is ``moving right|left|up|down`` or ``spinning``; pictures leave out motions and panning. The object named first
is in front. A ball is a shaded sphere that casts a shadow and has no texture. Nothing is downloaded; a seed fixes every
scene. Distances are in pixels of the whole picture, times in frames, angles in radians.
"""

import itertools
from dataclasses import dataclass, fields

import torch

COLOURS = {
    "red": (226, 45, 45),
    "yellow": (242, 208, 50),
    "green": (48, 180, 70),
    "cyan": (60, 205, 215),
    "blue": (55, 85, 232),
    "purple": (170, 65, 205),
    "white": (238, 238, 238),
}
TEXTURES = ("plain", "striped", "checked", "speckled")
SHAPES = ("circle", "square", "triangle", "star", "ring", "ball")
BALL = SHAPES.index("ball")
# Full turns that leave a shape as it is, by shape; 0 is any turn.
SYMMETRY = {"circle": 0, "square": 4, "triangle": 3, "star": 5, "ring": 0, "ball": 0}
MOTIONS = {
    "moving right": (1, 0),
    "moving left": (-1, 0),
    "moving up": (0, -1),
    "moving down": (0, 1),
    "spinning": (0, 0),
}
SPINNING = list(MOTIONS).index("spinning")
# Colours at the top and at the bottom of the picture: dull, so that objects stand out.
PLACES = {
    "at night": ((12, 14, 26), (34, 40, 66)),
    "at dusk": ((30, 22, 44), (74, 48, 58)),
    "in fog": ((74, 78, 80), (46, 48, 50)),
    "on sand": ((54, 44, 32), (84, 68, 48)),
}
PANS = {"": 0, "panning right": 1, "panning left": -1}

SIZE = 128
FRAMES = 17
OBJECTS = 2
SECOND_OBJECT_PROBABILITY = 0.45
PAN_PROBABILITY = 0.25

# What an object looks like, as (colour, texture, shape). Balls are plain, and listed as often as another shape.
LOOKS = [
    (colour, 0 if shape == BALL else texture, shape)
    for colour, texture, shape in itertools.product(range(len(COLOURS)), range(len(TEXTURES)), range(len(SHAPES)))
]


def held_out(colour, texture, shape):
    """Whether no training scene has an object of this look. Indices, or tensors of them; about one look in eight."""
    return (colour + 3 * texture + 5 * shape) % 8 == 3


@dataclass
class Scenes:
    """A batch of scenes; object ``k`` of scene ``b`` exists where ``present[b, k]``; earlier ones cover later ones."""

    colour: torch.Tensor  # [batch, 2] index into COLOURS
    texture: torch.Tensor  # [batch, 2] index into TEXTURES
    shape: torch.Tensor  # [batch, 2] index into SHAPES
    motion: torch.Tensor  # [batch, 2] index into MOTIONS
    present: torch.Tensor  # [batch, 2] bool
    radius: torch.Tensor  # [batch, 2]
    start: torch.Tensor  # [batch, 2, xy] centre in the first frame
    velocity: torch.Tensor  # [batch, 2, xy] pixels per frame
    angle: torch.Tensor  # [batch, 2] in the first frame
    spin: torch.Tensor  # [batch, 2] radians per frame
    grain: torch.Tensor  # [batch, 2] offset into the noise of speckled textures
    place: torch.Tensor  # [batch] index into PLACES
    pan: torch.Tensor  # [batch] pixels per frame by which the camera moves
    ground: torch.Tensor  # [batch, 2] offset into the pattern of the background

    def __len__(self):
        return len(self.place)

    def __getitem__(self, rows):
        return Scenes(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def prompts(self, motion=True):
        """One sentence per scene; without ``motion``, as for pictures."""
        colours, motions, places = list(COLOURS), list(MOTIONS), list(PLACES)
        pans = {sign: words for words, sign in PANS.items()}
        sentences = []
        for scene in range(len(self)):
            phrases = []
            for k in range(OBJECTS):
                if not self.present[scene, k]:
                    continue
                words = ["a", colours[self.colour[scene, k]]]
                if self.texture[scene, k]:
                    words.append(TEXTURES[self.texture[scene, k]])
                words.append(SHAPES[self.shape[scene, k]])
                if motion:
                    words.append(motions[self.motion[scene, k]])
                phrases.append(" ".join(words))
            words = [" and ".join(phrases), places[self.place[scene]]]
            if motion:
                words.append(pans[int(self.pan[scene].sign())])
            sentences.append(" ".join(words).strip())
        return sentences


def parse(prompt):
    """``(objects, place, pan)`` that ``prompt`` names; an object is ``(colour, texture, shape, motion or None)``."""
    pan = next((words for words in PANS if words and prompt.endswith(words)), "")
    prompt = prompt.removesuffix(pan).strip()
    place = next(words for words in PLACES if prompt.endswith(words))
    objects = []
    for phrase in prompt.removesuffix(place).strip().split(" and "):
        _, colour, *rest = phrase.split()
        texture = rest.pop(0) if rest[0] in TEXTURES else "plain"
        objects.append((colour, texture, rest[0], " ".join(rest[1:]) or None))
    return objects, place, pan


def random_scenes(batch, generator, unseen=False):
    """Scenes without any held-out look, or with ``unseen`` ones whose first object has such a look."""

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(shape, generator=generator)

    def pick(count):
        return torch.randint(count, (batch, OBJECTS), generator=generator)

    looks = torch.tensor(LOOKS)
    hidden = held_out(*looks.T)
    known, unknown = looks[~hidden], looks[hidden]
    look = known[pick(len(known))]
    if unseen:
        look[:, 0] = unknown[pick(len(unknown))[:, 0]]
    colour, texture, shape = look.unbind(-1)
    # Two objects of one colour could not be told apart by who checks a picture.
    same = colour[:, 0] == colour[:, 1]
    motion = pick(len(MOTIONS))
    # Turning a plain round shape changes nothing.
    round_ = torch.tensor([turns == 0 for turns in SYMMETRY.values()])[shape] & (texture == 0)
    motion = torch.where(round_ & (motion == SPINNING), pick(SPINNING), motion)
    heading = torch.tensor(list(MOTIONS.values()), dtype=torch.float32)[motion]
    moving = motion != SPINNING
    radius = uniform(0.15, 0.22, batch, OBJECTS) * SIZE
    speed = uniform(0.25, 0.5, batch, OBJECTS) * SIZE / FRAMES * moving
    across = radius + (SIZE - 2 * radius) * uniform(0, 1, batch, OBJECTS)
    room = SIZE - 2 * radius - speed * (FRAMES - 1)
    along = radius + room * uniform(0, 1, batch, OBJECTS)
    # `along` is measured from the side that the object comes from.
    start = torch.where(heading == 0, across[..., None], along[..., None])
    start = torch.where(heading < 0, SIZE - start, start)
    # One that spins could be anywhere in both directions.
    start[..., 1] = torch.where(moving, start[..., 1], along)
    present = torch.ones(batch, OBJECTS, dtype=torch.bool)
    present[:, 1] = (uniform(0, 1, batch) < SECOND_OBJECT_PROBABILITY) & ~same
    sign = 2.0 * torch.randint(2, (batch, OBJECTS), generator=generator) - 1
    pan = 2.0 * torch.randint(2, (batch,), generator=generator) - 1
    pan = pan * uniform(1.5, 3, batch) * (uniform(0, 1, batch) < PAN_PROBABILITY)
    return Scenes(
        colour=colour, texture=texture, shape=shape, motion=motion, present=present, radius=radius, start=start,
        velocity=heading * speed[..., None], angle=uniform(-0.35, 0.35, batch, OBJECTS),
        spin=sign * uniform(0.1, 0.2, batch, OBJECTS) * ~moving, grain=uniform(0, 1000, batch, OBJECTS),
        place=torch.randint(len(PLACES), (batch,), generator=generator), pan=pan, ground=uniform(0, 1000, batch, 2),
    )  # fmt: skip

"""Synthetic voices, and the videos that belong to them: a shape grows with the loudness and rises with the pitch.

A voice is a row of syllables, each a tone with a handful of harmonics that glides from one pitch to another, with
silences between some of them. Times are in seconds, distances in pixels.
"""

from dataclasses import dataclass

import numpy as np
import torch

from shapes import BACKGROUND_BOTTOM, BACKGROUND_TOP, COLOURS, SHAPES, SIZE, signed_distance

RATE = 16000  # samples per second
FPS = 16
LOWEST, HIGHEST = 110.0, 660.0  # Hz
FULL_LOUDNESS = 1.8  # RMS of the normalised sound at which the shape has its full size
AUDIBLE = 0.15  # below this loudness the shape rests
REST_ROW, LOWEST_ROW, HIGHEST_ROW = 50.0, 46.0, 15.0
SMALLEST, LARGEST = 5.0, 14.0  # radius
ROW_INERTIA, SIZE_INERTIA = 0.5, 0.3  # share of the previous frame's value that a frame keeps


@dataclass
class Voice:
    sound: np.ndarray  # [samples], PCM16 steps between -1 and 1
    pitch: np.ndarray  # [samples] in Hz


@dataclass
class Syllable:
    begin: float
    length: float
    pitch: tuple[float, float]  # Hz at its begin and end
    level: tuple[float, float]  # amplitude, from 0 to 1


def random_voice(seconds, rng):
    """A voice of ``seconds``, a fresh one for each state of the numpy generator ``rng``."""
    syllables, at = [], rng.uniform(0, 0.3)
    while at < seconds:
        pitch = LOWEST * (HIGHEST / LOWEST) ** rng.uniform(0, 1, 2)
        if rng.random() < 0.4:
            pitch[1] = pitch[0]
        syllables.append(Syllable(at, rng.uniform(0.2, 0.9), tuple(pitch), tuple(rng.uniform(0.15, 1, 2))))
        pause = rng.uniform(0.1, 0.6) if rng.random() < 0.5 else rng.uniform(0, 0.03)
        at += syllables[-1].length + pause
    return sing(syllables, seconds, rng)


def sing(syllables, seconds, rng):
    """The sound of ``syllables`` with random overtones, background noise and gain."""
    samples = int(seconds * RATE)
    level, pitch = np.zeros(samples), np.full(samples, LOWEST)
    for syllable in syllables:
        begin = int(syllable.begin * RATE)
        length = min(int(syllable.length * RATE), samples - begin)
        ramp, part = np.linspace(0, 1, length), slice(begin, begin + length)
        low, high = syllable.pitch
        pitch[part] = low * (high / low) ** ramp
        edge = np.minimum(1, np.minimum(np.arange(length), np.arange(length)[::-1]) / (0.04 * RATE))
        level[part] = edge * (syllable.level[0] + (syllable.level[1] - syllable.level[0]) * ramp)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    strengths = np.exp(-np.arange(6) * rng.uniform(0.5, 1.5)) * rng.uniform(0.5, 1, 6)
    tone = sum(s * np.sin((k + 1) * phase + rng.uniform(0, 6)) for k, s in enumerate(strengths))
    sound = level * tone / np.sqrt((strengths**2).sum() / 2)
    sound = 0.3 * sound / np.abs(sound).max() + 10 ** rng.uniform(-4, -3) * rng.standard_normal(samples)
    sound = (sound * rng.uniform(0.5, 2.5) * 32768).round().clip(-32768, 32767)
    return Voice(sound.astype(np.float32) / 32768, pitch)


def normalise(sound):
    """Mean 0 and variance 1 over the whole recording, as wav2vec 2.0 reads it."""
    return (sound - sound.mean()) / np.sqrt(sound.var() + 1e-7)


def at_times(voice, times):
    """Loudness and height of the pitch, both from 0 to 1, at ``times``; zero behind the end."""
    half, sound = int(0.04 * RATE), normalise(voice.sound)
    power = np.concatenate([[0.0], np.cumsum(sound.astype(np.float64) ** 2)])
    centre = (np.asarray(times) * RATE).astype(int)
    low, high = (np.clip(centre + side, 0, len(sound)) for side in (-half, half))
    rms = np.sqrt((power[high] - power[low]) / (2 * half))
    pitch = voice.pitch[np.minimum(centre, len(sound) - 1)]
    height = np.log(pitch / LOWEST) / np.log(HIGHEST / LOWEST)
    return np.minimum(1, rms / FULL_LOUDNESS), height * (rms / FULL_LOUDNESS > AUDIBLE)


def movement(voice, frames):
    """Radius and row of the shape in ``frames`` frames. Both follow the sound with some inertia, from rest."""
    loudness, height = at_times(voice, np.arange(frames) / FPS)
    row = np.where(loudness > AUDIBLE, LOWEST_ROW + (HIGHEST_ROW - LOWEST_ROW) * height, REST_ROW)
    size = SMALLEST + (LARGEST - SMALLEST) * loudness
    return follow(size, SMALLEST, SIZE_INERTIA), follow(row, REST_ROW, ROW_INERTIA)


def follow(wanted, value, inertia):
    out = np.empty(len(wanted))
    for i, goal in enumerate(wanted):
        out[i] = value = inertia * value + (1 - inertia) * goal
    return out


@dataclass
class Actor:
    """Who moves: indices into COLOURS and SHAPES, and the column of the centre."""

    colour: int
    kind: int
    column: float

    def prompt(self):
        return f"a {list(COLOURS)[self.colour]} {SHAPES[self.kind]} moving"


def random_actor(rng):
    return Actor(int(rng.integers(len(COLOURS))), int(rng.integers(len(SHAPES))), rng.uniform(18, SIZE - 18))


def draw(actor, radius, row):
    """Pixels [3, frames, SIZE, SIZE] in [-1, 1] of the actor with these radii and rows."""
    radius, row = (torch.as_tensor(v, dtype=torch.float32).view(-1, 1, 1, 1) for v in (radius, row))
    axis = torch.arange(SIZE, dtype=torch.float32) + 0.5
    top, bottom = (torch.tensor(c).view(1, 3, 1, 1) for c in (BACKGROUND_TOP, BACKGROUND_BOTTOM))
    pixels = top + (bottom - top) * (axis / SIZE).view(1, 1, SIZE, 1)
    dx, dy = axis.view(1, 1, 1, SIZE) - actor.column, axis.view(1, 1, SIZE, 1) - row
    dx = dx.expand(len(row), 1, 1, SIZE)
    cover = (0.5 - signed_distance(torch.full((len(row),), actor.kind), dx, dy, radius)).clamp(0, 1)
    colour = torch.tensor(list(COLOURS.values())[actor.colour], dtype=torch.float32).view(1, 3, 1, 1)
    return ((pixels * (1 - cover) + colour * cover) / 127.5 - 1).transpose(0, 1)


def portrait(actor, rng):
    """The picture [3, SIZE, SIZE] that a video starts from: the actor at some size and height."""
    return draw(actor, [rng.uniform(8, 12)], [rng.uniform(28, 44)])[:, 0]

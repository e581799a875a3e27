"""The transformer of Wan2.2-S2V (``WanModel_S2V``) at any size, in plain torch, with the names of the published file.

Batched and trainable; one call takes latents, the picture, the clip's sound and, behind the first clip, the frames made
before. Pose videos are left out: their latents are zeros here, as in a call without one.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from s2v_audio import AudioEncoder, plain_norm

REFERENCE_TIME = 30
VIDEO, REFERENCE, MOTION = range(3)  # rows of trainable_cond_mask


class RmsNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        x = x.float()
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.weight


class Attention(nn.Module):
    """Queries from ``x``, keys and values from ``y``, each [batch, tokens, dim]; ``rope`` turns queries and keys."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = RmsNorm(dim), RmsNorm(dim)

    def forward(self, x, y, rope=None):
        q, k = self.norm_q(self.q(x)), self.norm_k(self.k(y))
        if rope is not None:
            q, k = (rotate(t, rope, self.heads) for t in (q, k))
        v = self.v(y)
        q, k, v = (t.to(v.dtype).unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        # Written out, this is faster on a CPU than torch's own.
        share = (q / q.shape[-1] ** 0.5 @ k.transpose(2, 3)).softmax(-1).to(v.dtype)
        return self.o((share @ v).transpose(1, 2).flatten(2))


def rotate(x, rope, heads):
    """Turn interleaved pairs of every head of ``x`` [batch, tokens, dim] by ``rope`` = cos, sin [tokens, 1, pairs]."""
    cos, sin = rope
    a, b = x.unflatten(-1, (heads, -1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(2)


class Block(nn.Module):
    """``modulation`` [batch, 2, 6, dim]: row 0 for the first ``video`` tokens, row 1 for all others."""

    def __init__(self, dim, ffn_dim, heads):
        super().__init__()
        self.self_attn, self.cross_attn = Attention(dim, heads), Attention(dim, heads)
        self.norm3 = nn.LayerNorm(dim, eps=1e-6)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(ffn_dim, dim))
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def forward(self, x, modulation, text, rope, video):
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (self.modulation + modulation).unbind(2)
        z = modulated(plain_norm(x, 1e-6), 1 + scale, video, shift)
        x = x + modulated(self.self_attn(z, z, rope), gate, video)
        x = x + self.cross_attn(self.norm3(x), text)
        z = modulated(plain_norm(x, 1e-6), 1 + ffn_scale, video, ffn_shift)
        return x + modulated(self.ffn(z), ffn_gate, video)


def modulated(x, scale, video, shift=None):
    """``x`` * ``scale`` + ``shift``: row 0 of [batch, 2, dim] for the first ``video`` tokens, row 1 for the others."""
    parts = []
    for row, part in enumerate((x[:, :video], x[:, video:])):
        part = part * scale[:, row, None]
        parts.append(part if shift is None else part + shift[:, row, None])
    return torch.cat(parts, 1)


class AdaNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.linear = nn.Linear(dim, 2 * dim)


class Injector(nn.Module):
    """Cross-attention from the tokens of every latent frame to that frame's audio tokens, ``o`` starting near zero."""

    def __init__(self, dim, heads, count):
        super().__init__()
        self.injector = nn.ModuleList(Attention(dim, heads) for _ in range(count))
        self.injector_adain_layers = nn.ModuleList(AdaNorm(dim) for _ in range(count))

    def forward(self, j, x, local, one):
        """``x`` [batch, video tokens, dim] with the audio added."""
        batch, frames = one.shape[:2]
        shift, scale = self.injector_adain_layers[j].linear(F.silu(one)).chunk(2, -1)
        z = plain_norm(x, 1e-5).unflatten(1, (frames, -1)) * (1 + scale[:, :, None]) + shift[:, :, None]
        return x + self.injector[j](z.flatten(0, 1), local.flatten(0, 1)).reshape(x.shape)


class FramePacker(nn.Module):
    """The newest 19 latents before the clip as tokens: 1 finely, 2 coarser, 16 coarsest, newest first."""

    def __init__(self, channels, dim):
        super().__init__()
        self.proj, self.proj_2x, self.proj_4x = (
            nn.Conv3d(channels, dim, size, size) for size in ((1, 2, 2), (2, 4, 4), (4, 8, 8))
        )

    def forward(self, motion):
        parts = self.proj(motion[:, :, 18:]), self.proj_2x(motion[:, :, 16:18]), self.proj_4x(motion[:, :, :16])
        return torch.cat([p.flatten(2).transpose(1, 2) for p in parts], 1)


class SpeechToVideo(nn.Module):
    def __init__(self, config, audio_states):
        super().__init__()
        self.config = c = dict(config)
        dim, self.heads = c["dim"], c["num_heads"]
        patch = (1, 2, 2)
        self.patch_embedding = nn.Conv3d(c["in_dim"], dim, patch, patch)
        self.cond_encoder = nn.Conv3d(c["cond_dim"], dim, patch, patch)
        self.frame_packer = FramePacker(c["in_dim"], dim)
        self.trainable_cond_mask = nn.Embedding(3, dim)
        self.text_embedding = nn.Sequential(
            nn.Linear(c["text_dim"], dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding = nn.Sequential(nn.Linear(c["freq_dim"], dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(Block(dim, c["ffn_dim"], self.heads) for _ in range(c["num_layers"]))
        self.head = Head(dim, 4 * c["out_dim"])
        layers = c["audio_inject_layers"]
        self.casual_audio_encoder = AudioEncoder(audio_states, dim, c["audio_dim"], c["num_audio_token"])
        self.audio_injector = Injector(dim, self.heads, len(layers))
        nn.init.normal_(self.trainable_cond_mask.weight, std=0.02)
        for attention in self.audio_injector.injector:
            nn.init.normal_(attention.o.weight, std=1e-3)

    def forward(self, x, timestep, text, reference, motion, audio):
        """Velocity like ``x`` [batch, channels, frames, rows, columns].

        ``timestep`` [batch] of 1000; ``text`` [batch, text_len, text_dim]; ``reference`` [batch, channels, 1, rows,
        columns]; ``motion`` [batch, channels, 19, rows, columns], or None in the first clip; ``audio`` [batch, states,
        audio_dim, 4 * frames].
        """
        batch, _, frames, rows, columns = x.shape
        local, one = self.casual_audio_encoder(audio)
        mark = self.trainable_cond_mask.weight
        flat = lambda t: t.flatten(2).transpose(1, 2)
        tokens = [
            flat(self.patch_embedding(x)) + self.cond_encoder.bias + mark[VIDEO],
            flat(self.patch_embedding(reference)) + mark[REFERENCE],
        ]
        if motion is not None:
            tokens.append(self.frame_packer(motion) + mark[MOTION])
        video, h = tokens[0].shape[1], torch.cat(tokens, 1).float()
        rope = rotary(token_grid(frames, rows // 2, columns // 2, motion is not None), self.config["dim"] // self.heads)
        rope = [t.float().to(x.device) for t in rope]
        times = torch.stack([timestep, torch.zeros_like(timestep)], 1)
        embedded = self.time_embedding(sinusoid(times, self.config["freq_dim"]).to(x.dtype)).float()
        modulation = self.time_projection(embedded).float().unflatten(-1, (6, -1))
        text = self.text_embedding(text)
        for i, block in enumerate(self.blocks):
            h = block(h, modulation, text, rope, video)
            if i in self.config["audio_inject_layers"]:
                j = self.config["audio_inject_layers"].index(i)
                h = torch.cat([self.audio_injector(j, h[:, :video], local, one), h[:, video:]], 1)
        y = self.head(h[:, :video], embedded[:, :1]).unflatten(1, (frames, rows // 2, columns // 2))
        y = y.unflatten(-1, (2, 2, -1))  # batch, frames, rows, columns, row in patch, column in patch, channels
        return y.permute(0, 6, 1, 2, 4, 3, 5).reshape(x.shape).float()


class Head(nn.Module):
    def __init__(self, dim, channels):
        super().__init__()
        self.head = nn.Linear(dim, channels)
        self.modulation = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)

    def forward(self, x, embedded):
        shift, scale = (self.modulation + embedded).chunk(2, 1)
        return self.head(plain_norm(x, 1e-6) * (1 + scale) + shift)


def sinusoid(times, dim):
    """Cosines, then sines [.., dim] of ``times``."""
    angles = times.double()[..., None] * 10000.0 ** (-torch.arange(dim // 2, device=times.device) / (dim / 2))
    return torch.cat([angles.cos(), angles.sin()], -1)


def spread(count, covered):
    """``count`` whole positions over ``covered``, truncated."""
    return np.linspace(0, covered - 1, count).astype(int).tolist()


def token_grid(frames, rows, columns, motion):
    """Time, row and column of every token; the motion tokens lie at negative times."""
    cells = lambda times, ys, xs: [(t, y, x) for t in times for y in ys for x in xs]
    grid = cells(range(frames), range(rows), range(columns)) + cells([REFERENCE_TIME], range(rows), range(columns))
    if motion:
        for times, coarse in (([-1], 1), ([-3], 2), ([-19, -14, -9, -4], 4)):
            grid += cells(times, spread(rows // coarse, rows), spread(columns // coarse, columns))
    return grid


def rotary(grid, head_dim):
    """cos and sin [tokens, 1, head_dim / 2] in double precision, channels for time, row and column in turn."""
    third = head_dim // 6
    grid, angles = torch.tensor(grid, dtype=torch.float64), []
    for axis, pairs in enumerate((head_dim // 2 - 2 * third, third, third)):
        angles.append(grid[:, axis, None] * 10000.0 ** (-torch.arange(pairs, dtype=torch.float64) / pairs))
    angles = torch.cat(angles, 1)[:, None]
    return angles.cos(), angles.sin()

"""From what wav2vec 2.0 heard to the audio tokens of Wan2.2-S2V, with the names of the published file."""

import torch
import torch.nn.functional as F
from torch import nn

HISTORY_FRAMES = 73
HISTORY_LATENTS = 19


def plain_norm(x, eps):
    return F.layer_norm(x.float(), x.shape[-1:], eps=eps)


class CausalConv(nn.Module):
    """Kernel 3 over [batch, frames, channels] that sees no later frame; the first frame is repeated in front."""

    def __init__(self, channels_in, channels_out, stride=1):
        super().__init__()
        self.conv = nn.Conv1d(channels_in, channels_out, 3, stride)

    def forward(self, x):
        return self.conv(torch.cat([x[:, :1], x[:, :1], x], 1).transpose(1, 2)).transpose(1, 2)


class AudioTokens(nn.Module):
    """Features to a global row and ``tokens`` + 1 local ones per latent frame."""

    def __init__(self, dim, audio_dim, tokens):
        super().__init__()
        self.tokens = tokens
        self.conv1_local = CausalConv(audio_dim, dim // 4 * tokens)
        self.conv1_global = CausalConv(audio_dim, dim // 4)
        self.conv2, self.conv3 = CausalConv(dim // 4, dim // 2, 2), CausalConv(dim // 2, dim, 2)
        self.final_linear = nn.Linear(dim, dim)
        self.padding_tokens = nn.Parameter(torch.zeros(1, 1, 1, dim))

    def chain(self, x):
        for step in (self.conv2, self.conv3, lambda y: y):
            x = step(F.silu(plain_norm(x, 1e-6)))
        return x

    def forward(self, x):
        batch = x.shape[0]
        local = self.conv1_local(x).unflatten(-1, (self.tokens, -1)).transpose(1, 2).flatten(0, 1)
        local = self.chain(local).unflatten(0, (batch, -1)).transpose(1, 2)
        padding = self.padding_tokens.expand(batch, local.shape[1], 1, -1)
        return torch.cat([local, padding], 2), self.final_linear(self.chain(self.conv1_global(x)))


class AudioEncoder(nn.Module):
    """Hidden states [batch, states, channels, frames] of a clip to its local [batch, latent frames, 5, dim] and
    global [batch, latent frames, dim] tokens. The clip's own first frame stands for the time before it."""

    def __init__(self, states, dim, audio_dim, tokens):
        super().__init__()
        self.weights = nn.Parameter(torch.ones(1, states, 1, 1))
        self.encoder = AudioTokens(dim, audio_dim, tokens)

    def forward(self, x):
        x = torch.cat([x[..., :1].expand(-1, -1, -1, HISTORY_FRAMES), x], -1)
        share = F.silu(self.weights)
        local, one = self.encoder((x * share / share.sum()).sum(1).transpose(1, 2))
        return local[:, HISTORY_LATENTS:], one[:, HISTORY_LATENTS:]

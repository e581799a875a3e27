"""Teach a small wav2vec 2.0 to hear loudness and pitch: a linear map from each of its hidden states tells both.

    python train_wav2vec2.py --out work/wav2vec2.pt
"""

import argparse

import numpy as np
import torch
from torch import nn

from fit import add_loop_arguments, fit
from hearing import hidden_states, new_wav2vec2
from voices import RATE, at_times, normalise, random_voice

SECONDS = 3
HOP, CENTRE = 320, 200  # samples from one hidden state to the next, and to the middle of what the first one sees


class Listener(nn.Module):
    """The encoder and one linear map per hidden state to loudness, height of the pitch and whether there is sound."""

    def __init__(self):
        super().__init__()
        self.encoder = new_wav2vec2()
        config = self.encoder.config
        self.maps = nn.ModuleList(nn.Linear(config.hidden_size, 3) for _ in range(config.num_hidden_layers + 1))

    def forward(self, sounds):
        """What every hidden state says, [batch, states, frames, 3]."""
        states = hidden_states(self.encoder, sounds).float()
        return torch.stack([told(states[:, i]) for i, told in enumerate(self.maps)], 1)


def lesson(batch, rng):
    """Normalised sounds [batch, samples] and what is to be heard in them, [batch, frames, 3]."""
    voices = [random_voice(SECONDS, rng) for _ in range(batch)]
    frames = (SECONDS * RATE - 400) // HOP + 1
    times = (np.arange(frames) * HOP + CENTRE) / RATE
    truth = [np.stack([*(heard := at_times(voice, times)), heard[1] > 0], -1) for voice in voices]
    sounds = np.stack([normalise(voice.sound) for voice in voices])
    return torch.from_numpy(sounds), torch.from_numpy(np.stack(truth)).float()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_loop_arguments(parser, steps=600, batch=16, lr=3e-3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    model = Listener().to(args.device)
    # The readers of letters and of masked sound are part of the published file, not of what is used.
    model.encoder.lm_head.requires_grad_(False)
    model.encoder.wav2vec2.masked_spec_embed.requires_grad_(False)

    def loss_fn():
        sounds, truth = lesson(args.batch, rng)
        with torch.autocast(args.device, torch.bfloat16):
            told = model(sounds.to(args.device))
        return (told - truth[:, None].to(args.device)).square().mean()

    fit(model, loss_fn, args, ema_decay=0.99, report=lambda loss: f"error {loss:.5f}")
    # What is shipped is half as wide: everything behind it is trained on the rounded weights.
    torch.save({name: value.half() for name, value in model.encoder.state_dict().items()}, args.out)
    with torch.no_grad():
        sounds, truth = lesson(64, np.random.default_rng(args.seed + 10000))
        error = (model(sounds.to(args.device)).cpu() - truth[:, None]).square().mean((0, 2)).sqrt()
    for i, (loudness, height, audible) in enumerate(error.tolist()):
        print(f"hidden state {i}: held-out error of loudness {loudness:.3f}, height {height:.3f}, sound {audible:.3f}")


if __name__ == "__main__":
    main()

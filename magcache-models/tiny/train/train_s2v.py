"""Train the small speech-to-video transformer by flow matching on the latents that latents_s2v.py wrote.

    python train_s2v.py --wav2vec2 work/wav2vec2.pt --out work/s2v.pt

One step sees first clips, which have no motion tokens, or later ones. An interrupted training continues from
``OUT.state``.
"""

import argparse
from dataclasses import dataclass

import torch
from transformers import UMT5EncoderModel

from fit import add_loop_arguments, fit, noise_levels
from hearing import audio_embedding, new_wav2vec2
from latents_s2v import CLIP, clips
from s2v import Block, Injector, SpeechToVideo
from s2v_config import AUDIO_STATES, CONFIG
from text import encode_wan

UNCONDITIONAL_PROBABILITY = 0.1
FIRST_CLIP_PROBABILITY = 0.3
FLOW_SHIFT = 3.0
HELD_OUT = 32  # takes
LEVELS = 8


@dataclass
class Clips:
    """Clips that all have a history or all have none; every field has one row per clip."""

    latents: torch.Tensor  # [clips, 8, 4, 16, 16]
    history: torch.Tensor | None  # [clips, 8, 19, 16, 16]
    reference: torch.Tensor  # [clips, 8, 1, 16, 16]
    audio: torch.Tensor  # [clips, states, audio_dim, 16]
    text: torch.Tensor  # [clips, 16, text_dim]

    def rows(self, at):
        history = None if self.history is None else self.history[at].float()
        return Clips(self.latents[at].float(), history, self.reference[at].float(), self.audio[at], self.text[at])


def listen(wav2vec2, sound, frames):
    """The features of the first ``frames`` video frames, rounded up to whole clips."""
    return audio_embedding(wav2vec2, sound.float().numpy() / 32768, CLIP, -(-frames // CLIP))


def load_wav2vec2(path):
    model = new_wav2vec2().eval()
    model.load_state_dict(torch.load(path))
    return model


def prepare(takes, grey, wav2vec2, text_encoder):
    """First clips and later clips of ``takes``."""
    first, later = [], []
    features = encode_wan(text_encoder, [item["prompt"] for item in takes])
    for item, text in zip(takes, features):
        found = list(clips(item, grey))
        audio = listen(wav2vec2, item["sound"], max(begin for begin, _, _ in found) + CLIP)
        for begin, latents, history in found:
            heard = audio[..., begin : begin + CLIP]
            (first if history is None else later).append((latents, history, item["reference"], heard, text))
    stack = lambda values: None if values[0] is None else torch.stack(values)
    return [Clips(*(stack(values) for values in zip(*rows))) for rows in (first, later)]


def velocity_error(model, rows, noise, sigma, audio, text):
    """Squared error [batch] of the velocity of noised clips."""
    level = sigma.view(-1, 1, 1, 1, 1)
    noisy = (1 - level) * rows.latents + level * noise
    with torch.autocast(noisy.device.type, torch.bfloat16):
        velocity = model(noisy, sigma * 1000, text, rows.reference, rows.history, audio)
    return (velocity - (noise - rows.latents)).square().mean((1, 2, 3, 4))


@torch.no_grad()
def held_out(model, groups, no_text):
    """Velocity error of unseen clips at LEVELS noise levels: first and later clips, each with sound and without."""
    generator = torch.Generator().manual_seed(7)
    for name, group in zip(("first clips", "later clips"), groups):
        rows = group.rows(slice(None))
        sums = torch.zeros(2)
        for level in range(LEVELS):
            u = torch.full((len(rows.latents),), (level + 0.5) / LEVELS)
            sigma = FLOW_SHIFT * u / (1 + (FLOW_SHIFT - 1) * u)
            noise = torch.randn(rows.latents.shape, generator=generator)
            silent = torch.zeros_like(rows.audio), no_text.expand_as(rows.text)
            for i, (audio, text) in enumerate(((rows.audio, rows.text), silent)):
                sums[i] += velocity_error(model, rows, noise, sigma, audio, text).mean() / LEVELS
        print(f"held-out velocity error, {name}: {sums[0]:.4f}, unconditional {sums[1]:.4f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_loop_arguments(parser, steps=20000, batch=16, lr=1.5e-3)
    parser.add_argument("--out", required=True)
    parser.add_argument("--compile", action="store_true", help="half as long per step, after some minutes")
    parser.add_argument("--wav2vec2", default="work/wav2vec2.pt")
    parser.add_argument("--latents", default="work/s2v-latents.pt")
    parser.add_argument("--text-encoder", default="../wan2.2-s2v-tiny/text_encoder")
    args = parser.parse_args()
    torch.manual_seed(args.seed)

    pool = torch.load(args.latents)
    wav2vec2, text_encoder = load_wav2vec2(args.wav2vec2), UMT5EncoderModel.from_pretrained(args.text_encoder).eval()
    parts = pool["takes"][HELD_OUT:], pool["takes"][:HELD_OUT]
    training, unseen = (prepare(takes, pool["grey"], wav2vec2, text_encoder) for takes in parts)
    print(f"{len(training[0].latents)} first clips, {len(training[1].latents)} later ones", flush=True)
    no_text = encode_wan(text_encoder, [""])
    model = SpeechToVideo(CONFIG, AUDIO_STATES)
    if args.compile:
        for part in (Block, Injector):
            part.forward = torch.compile(part.forward, dynamic=False)

    def loss_fn():
        group = training[0 if torch.rand(()) < FIRST_CLIP_PROBABILITY else 1]
        rows = group.rows(torch.randint(len(group.latents), (args.batch,)))
        kept = torch.rand(args.batch, 1, 1) >= UNCONDITIONAL_PROBABILITY
        text = torch.where(kept, rows.text, no_text)
        sigma = noise_levels(args.batch, FLOW_SHIFT, "cpu")
        noise = torch.randn_like(rows.latents)
        return velocity_error(model, rows, noise, sigma, rows.audio * kept[..., None], text).mean()

    fit(model, loss_fn, args, ema_decay=0.999, state=f"{args.out}.state")
    torch.save({"model": model.state_dict()}, args.out)
    with torch.compiler.set_stance("force_eager"):
        held_out(model, unseen, no_text)


if __name__ == "__main__":
    main()

"""Sample from wan2.2-s2v-tiny with voices it never heard, and measure whether the shape follows them.

    python sample_s2v.py --voices 8 --out sheet.png

Clip after clip as the official program makes them: each continues the frames before it, and three frames of the first
are thrown away. Written: every fourth frame, in pairs of rows: what was sampled, and what the voice asks for.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from PIL import Image
from transformers import UMT5EncoderModel, Wav2Vec2ForCTC

from export_s2v import FOLDER, HEARING, eight_bits
from hearing import audio_embedding
from latents import encode, statistics
from latents_s2v import CLIP, CLIP_LATENTS, DROPPED, PICTURE_FRAMES
from s2v import SpeechToVideo
from s2v_audio import HISTORY_FRAMES
from text import encode_wan
from unipc import UniPc
from voices import FPS, draw, movement, portrait, random_actor, random_voice

FRAME_STEP = 4
VISIBLE = 0.5  # summed difference of the channels, in [-1, 1], from which on a pixel is the shape's
HELD_OUT_SEED = 1000003


class Pipeline:
    def __init__(self, folder):
        folder = Path(folder)
        config, weights = json.loads((folder / "config.json").read_text()), eight_bits.read(folder / eight_bits.FILE)
        self.transformer = SpeechToVideo(config, weights["casual_audio_encoder.weights"].shape[1]).eval()
        self.transformer.load_state_dict(weights)
        self.wav2vec2 = Wav2Vec2ForCTC.from_pretrained(folder / HEARING, dtype=torch.float32).eval()
        self.vae = eight_bits.load(AutoencoderKLWan, folder / "vae")
        self.text_encoder = UMT5EncoderModel.from_pretrained(folder / "text_encoder").eval()

    def decode(self, latents):
        """Pixels [3, frames, height, width] in [-1, 1]."""
        mean, std = statistics(self.vae)
        return self.vae.decode(latents[None] * std + mean).sample[0].clamp(-1, 1)

    def encode(self, pixels):
        return encode(self.vae, pixels[None])[0]

    def denoise(self, noise, reference, motion, audio, text, no_text, args):
        """Latents like ``noise`` [8, 4, 16, 16] behind every step."""
        sampler, x, out = UniPc(args.steps), noise[None], []
        motion = None if motion is None else motion[None]
        for timestep in sampler.timesteps:
            time = torch.tensor([float(timestep)])
            velocity = self.transformer(x, time, text, reference[None], motion, audio[None])
            if args.guidance > 1:
                plain = self.transformer(x, time, no_text, reference[None], motion, torch.zeros_like(audio)[None])
                velocity = plain + args.guidance * (velocity - plain)
            x = sampler.step(velocity, x)
            out.append(x[0])
        return out

    @torch.no_grad()
    def __call__(self, picture, sound, prompt, clips, args, note=lambda clip, **tensors: None):
        """Frames [3, frames, height, width] in [-1, 1]; ``note`` is told what went into and came out of each clip."""
        audio = audio_embedding(self.wav2vec2, sound, CLIP, clips)
        text, no_text = encode_wan(self.text_encoder, [prompt]), encode_wan(self.text_encoder, [""])
        reference = self.encode(picture[:, None])
        window = torch.zeros(3, HISTORY_FRAMES, *picture.shape[1:])
        if args.continue_picture:
            window[:, -PICTURE_FRAMES:] = picture[:, None]
        video = []
        for clip in range(clips):
            motion = None if clip == 0 and not args.continue_picture else self.encode(window)
            generator = torch.Generator().manual_seed(args.seed + clip)
            noise = torch.randn(reference.shape[0], CLIP_LATENTS, *reference.shape[2:], generator=generator)
            heard = audio[..., clip * CLIP : (clip + 1) * CLIP]
            latents = self.denoise(noise, reference, motion, heard, text, no_text, args)
            before = reference if motion is None else motion
            frames = self.decode(torch.cat([before, latents[-1]], 1))[:, -CLIP:]
            if motion is None:
                frames = frames[:, DROPPED:]
            note(clip, noise=noise, motion=motion, latents=torch.stack(latents), frames=frames)
            video.append(frames)
            window = torch.cat([window, frames], 1)[:, -HISTORY_FRAMES:]
        return torch.cat(video, 1)


def measure(actor, frames):
    """Radius of a disc as large as the shape, and the row of its centre, in every frame; NaN where nothing is seen."""
    empty = draw(actor, [-10.0], [0.0])
    seen = ((frames - empty).abs().sum(0) > VISIBLE).double()  # [frames, rows, columns]
    area, rows = seen.sum((1, 2)), torch.arange(seen.shape[1], dtype=torch.float64) + 0.5
    return (area / np.pi).sqrt().numpy(), ((seen.sum(2) * rows).sum(1) / area).numpy()


def strip(frames):
    """Every fourth frame, side by side, as bytes [height, width, 3]."""
    picture = ((frames[:, ::FRAME_STEP] + 1) * 127.5).permute(2, 1, 3, 0).flatten(1, 2)
    return picture.round().byte().numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=FOLDER)
    parser.add_argument("--voices", type=int, default=8)
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--continue-picture", action="store_true", help="first clip with motion tokens, in step")
    parser.add_argument("--out")
    args = parser.parse_args()
    pipeline, rng = Pipeline(args.model), np.random.default_rng(HELD_OUT_SEED)
    found, asked, rows = [], [], []
    for _ in range(args.voices):
        voice, actor = random_voice(args.clips * CLIP / FPS, rng), random_actor(rng)
        picture = portrait(actor, rng)
        frames = pipeline(picture, voice.sound, actor.prompt(), args.clips, args)
        wanted = np.stack(movement(voice, args.clips * CLIP))[:, -frames.shape[1] :]
        asked.append(wanted)
        found.append(np.stack(measure(actor, frames)))
        rows += [strip(torch.cat([picture[:, None], part], 1)) for part in (frames, draw(actor, *wanted))]
    found, asked = np.concatenate(found, 1), np.concatenate(asked, 1)
    seen = np.isfinite(found).all(0)
    print(f"{found.shape[1]} frames, {(~seen).sum()} without a shape")
    for name, got, want in zip(("size and loudness", "row and pitch"), found[:, seen], asked[:, seen]):
        error = np.abs(got - want).mean()
        print(f"{name}: correlation {np.corrcoef(got, want)[0, 1]:.3f}, mean error {error:.2f} pixels")
    if args.out:
        Image.fromarray(np.concatenate(rows)).save(args.out)


if __name__ == "__main__":
    main()

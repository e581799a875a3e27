"""Draw and encode the videos of random voices once, so that the speech-to-video transformer trains on latents.

    python latents_s2v.py --vae work/video-vae --voices 1000 --out work/s2v-latents.pt

The file holds a list of :class:`Take` fields as dictionaries, and ``grey``, the latents [8, 19, 16, 16] of a window of
zeros. Everything is encoded as the pipeline encodes it, except that a window's oldest latents are copied from ``grey``
where its frames are grey, and that the very far past does not reach a video's later latents.
"""

import argparse
from dataclasses import asdict, dataclass

import numpy as np
import torch
from diffusers import AutoencoderKLWan

from latents import encode
from s2v_audio import HISTORY_FRAMES, HISTORY_LATENTS
from shapes import SIZE
from voices import FPS, draw, movement, portrait, random_actor, random_voice

CLIP, CLIP_LATENTS = 16, 4
CLIPS, LATE_CLIPS = 4, 3  # of a voice, and where the history is full from the start
TRANSIENT = 9  # the latents of a window that its beginning shows in
CHUNK = 8
DROPPED = 3  # frames of the first clip that are thrown away
KEPT_GREY = 5  # latents of grey that are really encoded in front of a video
PICTURE_FRAMES = 6  # of the first window, in a video that continues the picture
KINDS = {"dropped": 0.7, "picture": 0.2, "late": 0.1}


@dataclass
class Take:
    """One voice and its clips. Latents are normalised, in half precision."""

    sound: torch.Tensor  # [samples] of PCM16
    prompt: str
    reference: torch.Tensor  # [8, 1, 16, 16]
    first: torch.Tensor | None  # [8, 4, 16, 16]: the first clip where it has no motion tokens
    stream: torch.Tensor  # [8, 19 + 4 * clips, 16, 16]: history, then the clips that have one
    heads: torch.Tensor | None  # [clips, 8, 9, 16, 16]: how the history of each begins, where not with grey
    begin: int  # the frame that the first clip in ``stream`` begins with


def video(kind, rng):
    """A voice, its prompt, its picture [3, SIZE, SIZE] and pixels [3, frames, SIZE, SIZE]."""
    frames = HISTORY_FRAMES + LATE_CLIPS * CLIP if kind == "late" else CLIPS * CLIP
    # Behind the end of a voice there are frames without features, as at the end of every video.
    voice = random_voice(frames / FPS * rng.uniform(0.55 if kind != "late" else 0.85, 1.1), rng)
    actor = random_actor(rng)
    return voice, actor.prompt(), portrait(actor, rng), draw(actor, *movement(voice, frames))


def grey(batch, frames):
    return torch.zeros(batch, 3, frames, SIZE, SIZE)


def takes(vae, grey_latents, kind, rng):
    """CHUNK takes of one kind, encoded together."""
    voices, prompts, pictures, pixels = zip(*(video(kind, rng) for _ in range(CHUNK)))
    pictures, pixels = torch.stack(pictures)[:, :, None], torch.stack(pixels)
    latents = lambda *parts: encode(vae, torch.cat(parts, 2))
    first, begin, repeated = None, 0, None
    if kind == "late":
        stream, begin = latents(pixels), HISTORY_FRAMES
        # Each window is encoded from its own first frame on.
        head = 1 + 4 * (TRANSIENT - 1)
        repeated = torch.stack([latents(pixels[:, :, i * CLIP : i * CLIP + head]) for i in range(LATE_CLIPS)], 1)
    else:
        before = pictures.expand(-1, -1, PICTURE_FRAMES, -1, -1)
        if kind == "dropped":
            first, begin = latents(pictures, pixels[:, :, :CLIP])[:, :, 1:], CLIP
            before, pixels = pixels[:, :, DROPPED:CLIP], pixels[:, :, CLIP:]
        left_out = (HISTORY_FRAMES - before.shape[2] - 1) // 4 + 1 - KEPT_GREY
        stream = latents(grey(CHUNK, HISTORY_FRAMES - before.shape[2] - 4 * left_out), before, pixels)
        prefix = grey_latents[None, :, : left_out + KEPT_GREY].expand(CHUNK, -1, -1, -1, -1)
        stream = torch.cat([prefix, stream[:, :, KEPT_GREY:]], 2)
    references = latents(pictures)
    half = lambda t, i: None if t is None else t[i].half().cpu().contiguous()
    for i, voice in enumerate(voices):
        sound = torch.from_numpy((voice.sound * 32768).astype(np.int16))
        yield Take(
            sound, prompts[i], half(references, i), half(first, i), half(stream, i), half(repeated, i), begin
        )


def clips(item, grey_latents):
    """Every clip of a take: its first frame, its latents and the 19 latents before it (None in a first clip)."""
    if item["first"] is not None:
        yield 0, item["first"], None
    stream, begin = item["stream"], item["begin"]
    for i, at in enumerate(range(HISTORY_LATENTS, stream.shape[1], CLIP_LATENTS)):
        history = stream[:, at - HISTORY_LATENTS : at].clone()
        if item["heads"] is not None:
            history[:, :TRANSIENT] = item["heads"][i]
        else:
            before = PICTURE_FRAMES if item["first"] is None else CLIP - DROPPED
            left = min(TRANSIENT, (HISTORY_FRAMES - before - 1) // 4 + 1 - i * CLIP_LATENTS)
            history[:, :left] = grey_latents[:, :left]
        yield begin + i * CLIP, stream[:, at : at + CLIP_LATENTS], history


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", required=True, help="folder that train_video_vae.py wrote")
    parser.add_argument("--voices", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", default="work/s2v-latents.pt")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    vae = AutoencoderKLWan.from_pretrained(args.vae).eval().to(args.device)
    grey_latents, pool = encode(vae, grey(1, HISTORY_FRAMES))[0], []
    while len(pool) < args.voices:
        kind = rng.choice(list(KINDS), p=list(KINDS.values()))
        pool += [asdict(item) for item in takes(vae, grey_latents, kind, rng)]
        if len(pool) % 80 == 0 or len(pool) >= args.voices:
            torch.save({"takes": pool, "grey": grey_latents.half().cpu()}, args.out)
            print(f"{len(pool)} voices", flush=True)


if __name__ == "__main__":
    main()

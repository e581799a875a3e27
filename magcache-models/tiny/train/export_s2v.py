"""Write wan2.2-s2v-tiny in the native layout of Wan2.2-S2V-14B: transformer at the root, wav2vec 2.0 in its folder.

    python export_s2v.py --vae work/video-vae --wav2vec2 work/wav2vec2.pt --transformer work/s2v.pt

Text encoder and tokenizer are in the folder already. Transformer and autoencoder are stored in [eight
bits](world/eight_bits.py), wav2vec 2.0 in half precision.
"""

import argparse
import json
import sys
import wave
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from PIL import Image
from safetensors.torch import save_file

sys.path.append(str(Path(__file__).resolve().parent / "world"))
import eight_bits  # noqa: E402
from hearing import PREPROCESSOR, VOCABULARY, new_wav2vec2
from s2v_config import CONFIG
from voices import RATE, Actor, Syllable, draw, sing

FOLDER = Path(__file__).resolve().parent.parent / "wan2.2-s2v-tiny"
HEARING = "wav2vec2-large-xlsr-53-english"
ACTOR = Actor(colour=3, kind=0, column=32.0)
SENTENCE = [
    Syllable(0.25, 0.55, (150, 150), (0.9, 0.9)),
    Syllable(1.0, 0.5, (500, 500), (0.45, 0.45)),
    Syllable(1.55, 0.75, (560, 180), (0.9, 0.7)),
    Syllable(2.5, 0.45, (260, 620), (0.3, 1.0)),
]
SECONDS = 3.0
DEFAULTS = {
    "model": FOLDER.name,
    "prompt": ACTOR.prompt(),
    "negative_prompt": "",
    "steps": 30,
    "width": 64,
    "height": 64,
    "frames": 16,
    "fps": 16,
    "guidance": 2.0,
    "image": "example.png",
    "audio": "example.wav",
}
# Older names of the same tensors, as the published files have them.
PUBLISHED = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}

# Keys that transformers adds to every config and that say nothing about the model.
OF_THE_SESSION = (
    "_name_or_path", "chunk_size_feed_forward", "id2label", "is_encoder_decoder", "label2id", "output_attentions",
    "output_hidden_states", "problem_type", "return_dict",
)  # fmt: skip


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_weights(path, tensors):
    """Half precision, contiguous."""
    save_file({k: v.detach().half().contiguous() for k, v in tensors.items()}, path, metadata={"format": "pt"})
    path.chmod(0o644)


def write_wav2vec2(folder, weights):
    folder.mkdir(parents=True, exist_ok=True)
    config = new_wav2vec2().config.to_dict() | {"architectures": ["Wav2Vec2ForCTC"], "dtype": "float16"}
    write_json(folder / "config.json", {key: config[key] for key in sorted(config) if key not in OF_THE_SESSION})
    write_json(folder / "preprocessor_config.json", PREPROCESSOR)
    write_json(folder / "vocab.json", VOCABULARY)
    named = {}
    for name, value in weights.items():
        for new, old in PUBLISHED.items():
            name = name.replace(new, old)
        named[name] = value
    write_weights(folder / "model.safetensors", named)


def write_examples(folder):
    """The picture of a shape, and a sentence of four syllables with silences."""
    picture = (draw(ACTOR, [10.0], [36.0])[:, 0] + 1) * 127.5
    Image.fromarray(picture.permute(1, 2, 0).round().byte().numpy()).save(folder / "example.png", optimize=True)
    voice = sing(SENTENCE, SECONDS, np.random.default_rng(5))
    with wave.open(str(folder / "example.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((voice.sound * 32768).astype("<i2").tobytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", required=True)
    parser.add_argument("--wav2vec2", required=True)
    parser.add_argument("--transformer", required=True)
    parser.add_argument("--out", type=Path, default=FOLDER)
    args = parser.parse_args()
    eight_bits.save(AutoencoderKLWan.from_pretrained(args.vae), args.out / "vae")
    write_wav2vec2(args.out / HEARING, torch.load(args.wav2vec2))
    write_json(args.out / "config.json", CONFIG)
    eight_bits.write(args.out / eight_bits.FILE, CONFIG["_class_name"], torch.load(args.transformer)["model"])
    write_json(args.out / "magcache.json", DEFAULTS)
    write_examples(args.out)


if __name__ == "__main__":
    main()

"""Times magcache against diffusers and transformers: the same weights and shapes, in turns on the same cores.

    python bench_torch.py path/to/magcache [--rounds 7] [--only wan] [--json FILE]

For every case a model with random weights is written in the layout of its published checkpoints and timed in both.
A round is 0.7 seconds of one program and then of the other, each after a warm-up, and gives one ratio of medians;
the order alternates between rounds. Printed are the smallest, median and largest ratio of all rounds: below 1
magcache is faster. torch runs under `inference_mode`, with as many threads as magcache.

The timed work is that of a denoising step. diffusers projects the text and computes its keys and values at every
step, magcache once per generation: this is part of diffusers' times and not of magcache's.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import torch

SECONDS = 0.7
TEXT_WIDTH = 64


def wan(width, heads, hidden, layers, tokens, text):
    from diffusers import WanTransformer3DModel

    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        in_channels=16,
        out_channels=16,
        text_dim=TEXT_WIDTH,
        freq_dim=256,
        ffn_dim=hidden,
        num_layers=layers,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        eps=1e-6,
        rope_max_seq_len=1024,
    )
    frames = tokens // 256
    latents = torch.randn(1, 16, frames, 32, 32)
    encoded = torch.randn(1, text, TEXT_WIDTH)
    timestep = torch.tensor([500])
    return (
        model.eval(),
        lambda: model(latents, timestep, encoded, return_dict=False),
        ["forward", "--latent", f"{frames}x32x32", "--text", str(text)],
    )


def flux(tokens):
    from diffusers import FluxTransformer2DModel

    text, side = 128, math.isqrt(tokens)
    while tokens % side:
        side -= 1
    model = FluxTransformer2DModel(
        in_channels=64,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=128,
        num_attention_heads=4,
        joint_attention_dim=256,
        pooled_projection_dim=64,
        guidance_embeds=True,
    )
    ids = torch.zeros(tokens, 3)
    ids[:, 1] = torch.arange(tokens) // (tokens // side)
    ids[:, 2] = torch.arange(tokens) % (tokens // side)
    inputs = {
        "hidden_states": torch.randn(1, tokens, 64),
        "encoder_hidden_states": torch.randn(1, text, 256),
        "pooled_projections": torch.randn(1, 64),
        "timestep": torch.tensor([0.5]),
        "guidance": torch.tensor([3.5]),
        "img_ids": ids,
        "txt_ids": torch.zeros(text, 3),
    }
    return (
        model.eval(),
        lambda: model(**inputs, return_dict=False),
        ["forward", "--latent", f"1x{side}x{tokens // side}", "--text", str(text)],
    )


def z_image(tokens):
    from diffusers import ZImageTransformer2DModel

    model = ZImageTransformer2DModel(
        in_channels=16,
        dim=512,
        n_layers=6,
        n_refiner_layers=1,
        n_heads=4,
        n_kv_heads=4,
        cap_feat_dim=256,
        axes_dims=[32, 48, 48],
        axes_lens=[1024, 512, 512],
    )
    text, rows = 64, math.isqrt(tokens)
    while tokens % rows:
        rows -= 1
    latents = [torch.randn(16, 1, 2 * rows, 2 * (tokens // rows))]
    caption = [torch.randn(text, 256)]
    timestep = torch.tensor([0.5])
    return (
        model.eval(),
        lambda: model(latents, timestep, caption, return_dict=False),
        ["forward", "--latent", f"1x{2 * rows}x{2 * (tokens // rows)}", "--text", str(text)],
    )


def qwen_image(tokens):
    from diffusers import QwenImageTransformer2DModel

    text, side = 64, math.isqrt(tokens)
    while tokens % side:
        side -= 1
    model = QwenImageTransformer2DModel(num_layers=4, num_attention_heads=4, joint_attention_dim=256)
    inputs = {
        "hidden_states": torch.randn(1, tokens, 64),
        "encoder_hidden_states": torch.randn(1, text, 256),
        "timestep": torch.tensor([0.5]),
        "img_shapes": [[(1, side, tokens // side)]],
    }
    return (
        model.eval(),
        lambda: model(**inputs, return_dict=False),
        ["forward", "--latent", f"1x{side}x{tokens // side}", "--text", str(text)],
    )


def vae():
    from diffusers import AutoencoderKLWan

    model = AutoencoderKLWan(base_dim=32, z_dim=16)
    latents = torch.randn(1, 16, 2, 16, 16)
    return model.eval(), lambda: model.decode(latents, return_dict=False), ["vae", "--latent", "2x16x16"]


def umt5():
    from transformers import UMT5Config, UMT5EncoderModel

    config = UMT5Config(
        vocab_size=1000,
        d_model=512,
        d_kv=64,
        d_ff=1024,
        num_layers=8,
        num_heads=8,
        feed_forward_proj="gated-gelu",
    )
    model = UMT5EncoderModel(config)
    ids = (torch.arange(128) * 7 % 1000)[None]
    return model.eval(), lambda: model(ids), ["text", "--tokens", "128"]


CASES = {
    "wan 256:8:1024:8:512:64": lambda: wan(256, 8, 1024, 8, 512, 64),
    "wan 256:8:1024:8:1024:64": lambda: wan(256, 8, 1024, 8, 1024, 64),
    "wan 512:4:2048:4:1024:64": lambda: wan(512, 4, 2048, 4, 1024, 64),
    "wan 1536:12:8960:1:1024:512": lambda: wan(1536, 12, 8960, 1, 1024, 512),
    "wan 128:4:512:4:256:32": lambda: wan(128, 4, 512, 4, 256, 32),
    "flux 512 tokens": lambda: flux(512),
    "flux 1024 tokens": lambda: flux(1024),
    "z-image 512 tokens": lambda: z_image(512),
    "z-image 1024 tokens": lambda: z_image(1024),
    "qwen-image 512 tokens": lambda: qwen_image(512),
    "qwen-image 1024 tokens": lambda: qwen_image(1024),
    "vae decode": vae,
    "umt5 encode": umt5,
}


def timed(run, seconds):
    """Median time of the repetitions that fit into the given seconds, in milliseconds."""
    run()
    times = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def magcache(program, folder, arguments, repeat, flags):
    command = [program, "bench", *arguments, "--model", folder, "--repeat", str(repeat), "--json", *flags]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def case(name, program, rounds, flags):
    torch.manual_seed(0)
    model, run, arguments = CASES[name]()
    ratios, ours, theirs = [], [], []
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        model.save_pretrained(folder)
        run()
        start = time.perf_counter()
        run()
        repeat = max(3, round(SECONDS / (time.perf_counter() - start)))
        for i in range(rounds):
            def one():
                ours.append(magcache(program, folder, arguments, repeat, flags)["median_ms"])

            def other():
                theirs.append(timed(run, SECONDS))

            for turn in (one, other) if i % 2 else (other, one):
                turn()
            ratios.append(ours[-1] / theirs[-1])
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    print(
        f"{name:<30} {statistics.median(ours):>9.2f} {statistics.median(theirs):>9.2f}"
        f"   {low:.2f} / {middle:.2f} / {high:.2f}",
        flush=True,
    )
    return {"case": name, "magcache_ms": ours, "torch_ms": theirs, "ratios": ratios}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("magcache")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--flags", default="", help="more flags for magcache")
    args = parser.parse_args()
    threads = int(os.environ.get("RAYON_NUM_THREADS", "2"))
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    print(f"torch {torch.__version__}, {threads} threads, f32, {args.rounds} rounds")
    print(f"{'':<30} {'magcache':>9} {'torch':>9}   ratio, min / median / max")
    found = [
        case(name, args.magcache, args.rounds, args.flags.split()) for name in CASES if args.only in name
    ]
    wans = [statistics.median(row["ratios"]) for row in found if row["case"].startswith("wan")]
    if wans:
        print(f"geometric mean of the wan cases {math.exp(statistics.fmean(map(math.log, wans))):.3f}")
    if args.json:
        args.json.write_text(json.dumps({"torch": torch.__version__, "threads": threads, "cases": found}))


if __name__ == "__main__":
    main()

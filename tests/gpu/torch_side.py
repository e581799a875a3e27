"""The shapes that `magcache selftest` measured, under PyTorch: one-block networks of diffusers and SDPA alone.

    python tests/gpu/torch_side.py --report magcache-selftest/selftest.json --device cuda:0
    python tests/gpu/torch_side.py --magcache target/release/magcache --device cpu --quick

With `--report` the ratios are against an earlier measurement. With `--magcache` both are measured here: PyTorch, the
program, PyTorch again, and each ratio is against the mean of the two. Both sides have the same number of threads,
and on a GPU nothing else may run there. A ratio above 1 means that PyTorch is faster.

Needs torch 2.11 and diffusers 0.42.1.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import tempfile
import time

import torch
from diffusers import WanTransformer3DModel

TEXT_TOKENS = 512
SIZES = {
    "1.3B": {"num_attention_heads": 12, "ffn_dim": 8960, "in_channels": 16},
    "5B": {"num_attention_heads": 24, "ffn_dim": 14336, "in_channels": 48},
    "14B": {"num_attention_heads": 40, "ffn_dim": 13824, "in_channels": 16},
}
HEAD_DIM = 128


def measure(device, repeat, run):
    """Median milliseconds of `repeat` runs, after one to warm up."""

    def wait():
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def once():
        wait()
        start = time.perf_counter()
        run()
        wait()
        return (time.perf_counter() - start) * 1e3

    once()
    return statistics.median(once() for _ in range(repeat))


def block(size, latent, dtype, device, repeat):
    """A forward of a network with one block, as the program measures it."""
    sizes = SIZES[size]
    model = WanTransformer3DModel(
        attention_head_dim=HEAD_DIM, num_layers=1, out_channels=sizes["in_channels"], text_dim=4096, **sizes
    )
    # As a pipeline loads it: what has to be f32 stays so.
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        model = WanTransformer3DModel.from_pretrained(folder, torch_dtype=dtype).to(device).eval()
    frames, rows, columns = latent
    inputs = {
        "hidden_states": torch.randn(1, sizes["in_channels"], frames, rows, columns, device=device, dtype=dtype),
        "encoder_hidden_states": torch.randn(1, TEXT_TOKENS, 4096, device=device, dtype=dtype),
        "timestep": torch.tensor([500], device=device),
    }
    return measure(device, repeat, lambda: model(**inputs, return_dict=False))


def attention(size, tokens, dtype, device, repeat):
    """SDPA alone, of tensors that are already split into heads."""
    shape = (1, SIZES[size]["num_attention_heads"], tokens, HEAD_DIM)
    q, k, v = (torch.randn(shape, device=device, dtype=dtype) for _ in range(3))
    return measure(device, repeat, lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v))


def product(size, dtype, device, repeat):
    """The matrix product that stands for the limit of the device."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return measure(device, repeat, lambda: a @ b)


def other_side(timing, device):
    """Milliseconds of PyTorch for one timing of the report; None for what is not compared."""
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}.get(timing["dtype"])
    name, shape, repeat = timing["name"], timing["shape"], timing["repeat"]
    if name == "matrix product":
        return product(int(shape.split()[0]), dtype, device, repeat)
    found = re.fullmatch(r"(block|attention) of (\S+) at \S+", name)
    if not found:
        return None
    part, size = found.groups()
    if part == "attention":
        return attention(size, int(shape.split()[0]), dtype, device, repeat)
    latent = [int(n) for n in re.search(r"latents of (\d+)x(\d+)x(\d+)", shape).groups()]
    return block(size, latent, dtype, device, repeat)


def report_of(program, device, quick):
    """Runs the program's own measurements."""
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out")
        line = [program, "selftest", "--only", "timings", "--device", device, "--out", out, "--quiet"]
        subprocess.run(line + (["--quick"] if quick else []), check=True)
        with open(os.path.join(out, "selftest.json")) as file:
            return json.load(file)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    side = parser.add_mutually_exclusive_group(required=True)
    side.add_argument("--report", help="selftest.json of this machine")
    side.add_argument("--magcache", help="the program, to be measured now")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--quick", action="store_true", help="small shapes, with --magcache")
    parser.add_argument("--json", help="write the ratios to this file")
    args = parser.parse_args()
    device = torch.device(args.device)

    if args.report:
        with open(args.report) as file:
            report = json.load(file)
    else:
        report = report_of(args.magcache, args.device, args.quick)
    if report["machine"]["device"] != args.device:
        parser.error(f"the report is of {report['machine']['device']}, not of {args.device}")
    if device.type == "cpu":
        torch.set_num_threads(report["machine"]["threads"])

    rows = []
    with torch.inference_mode():
        sides = [[other_side(timing, device) for timing in report["timings"]]]
        if args.magcache:
            report = report_of(args.magcache, args.device, args.quick)
            sides.append([other_side(timing, device) for timing in report["timings"]])
    for timing, *times in zip(report["timings"], *sides):
        if None in times:
            continue
        torch_ms = statistics.mean(times)
        ratio = timing["median_ms"] / torch_ms
        rows.append(
            {"name": timing["name"], "dtype": timing["dtype"], "shape": timing["shape"],
             "magcache_ms": timing["median_ms"], "torch_ms": torch_ms, "torch_runs_ms": times, "ratio": ratio}
        )
        print(f"{timing['name']:24} {timing['dtype']:5} {timing['shape']:56} "
              f"magcache {timing['median_ms']:10.3f} ms, torch {torch_ms:10.3f} ms, ratio {ratio:.3f}")
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"torch": torch.__version__, "device": args.device, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()

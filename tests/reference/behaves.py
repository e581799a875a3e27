r"""Whether a small model caches as the published big ones do, as the tables of docs/results/fidelity.md.

    R=docs/results
    python tests/reference/behaves.py --magcache target/release/magcache --model wan2.1-t2v-tiny \
        --prompts $R/prompts-video.txt --calibration $R/prompts-calibration-video.txt --out OUT

For each sampler it calibrates dense runs, and has `pareto` compare half of the steps, MagCache and TeaCache at the same
number of computed steps with dense runs. Of the ratios of magnitudes, beside those of published profiles:

  mean      over all steps but the first, which has nothing before it
  middle    the same, between 20 % and 80 % of the run
  end       at the last step
  decay     share of the run, from its end, in which the ratio is below 0.95
  spread    standard deviation over runs, mean over the steps; big models publish none

`order` is the measured ranking; published tables have MagCache above TeaCache above fewer steps at about twice the speed.
"""

import argparse
import json
import subprocess
import tomllib
from pathlib import Path

import numpy as np

PROFILES = Path(__file__).resolve().parents[2] / "magcache-models/data"
PUBLISHED = ("wan2.1-t2v-1.3b", "wan2.1-t2v-14b", "flux.1-dev")
DECAYED = 0.95


def describe(curve):
    """The numbers of a curve of a profile, over its branches."""
    ratios = np.array([values[1:] for values in curve["ratios"].values()])
    steps = ratios.shape[1] + 1
    middle = ratios[:, int(0.2 * steps) : int(0.8 * steps)]
    numbers = {
        "steps": steps,
        "mean": ratios.mean(),
        "middle": middle.mean(),
        "end": ratios[:, -1].mean(),
        "decay": (ratios[:, steps // 2 :] < DECAYED).mean() * (steps - 1 - steps // 2) / steps,
    }
    if "std" in curve:
        numbers["spread"] = np.mean([values[1:] for values in curve["std"].values()])
    return {name: value if name == "steps" else round(float(value), 4) for name, value in numbers.items()}


def curve_of(path):
    return tomllib.loads(Path(path).read_text())["curve"][0]


def measure(args, sampler):
    """The curve of one sampler, and decibels by name at half of the steps."""
    model = ["--model", args.model, "--sampler", sampler, *args.flags.split()]
    profile = args.out / f"{args.model}-{sampler}.toml"
    if not profile.exists():
        given = ["--prompts", args.calibration, "--seeds", args.seeds, "--out", profile, "--quiet"]
        subprocess.run([args.magcache, "calibrate", *model, *map(str, given)], check=True)
    curve = curve_of(profile)
    half = len(next(iter(curve["ratios"].values()))) // 2
    answer = args.out / f"{args.model}-{sampler}.json"
    if not answer.exists():
        given = ["--profile", profile, "--prompts", args.prompts, "--seeds", args.seeds, "--budgets", half]
        given += ["--search", 4, "--strategies", "magcache,teacache", "--json", "--quiet"]
        command = [args.magcache, "pareto", *model, *map(str, given)]
        answer.write_text(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    rows = {row["name"]: row for row in json.loads(answer.read_text())["rows"]}
    return curve, half, rows


def show(row, name):
    if row is None:
        return "-"
    text = f"{row['psnr']:.2f} ± {row['psnr_error']:.2f}"
    above = f"{row['above_fewer_steps']:+.2f} ± {row['above_fewer_steps_error']:.2f}"
    return text if name == "fewer steps" else f"{text} ({above})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--magcache", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--samplers", default="unipc,euler")
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--flags", default="", help="more flags of the program, such as '--image first.png'")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    curves = {f"{name} (published)": describe(curve_of(PROFILES / f"{name}.toml")) for name in PUBLISHED}
    names = ("fewer steps", "teacache", "magcache", "planner")
    quality = []
    for sampler in args.samplers.split(","):
        curve, half, rows = measure(args, sampler)
        curves[f"{args.model}, {sampler}"] = describe(curve)
        cells = [show(rows.get(name), name) for name in names]
        order = sorted((name for name in names[:3] if name in rows), key=lambda name: -rows[name]["psnr"])
        quality.append(f"| {args.model}, {sampler} | {half} | " + " | ".join(cells) + f" | {' > '.join(order)} |")
    print("| | computed | " + " | ".join(names) + " | order |\n" + "|---" * (len(names) + 3) + "|")
    print("\n".join(quality) + "\n")
    columns = ("steps", "mean", "middle", "end", "decay", "spread")
    print("| | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 1) + "|")
    for name, own in curves.items():
        print(f"| {name} | " + " | ".join(str(own.get(column, "-")) for column in columns) + " |")


if __name__ == "__main__":
    main()

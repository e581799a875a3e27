"""Caches in runs of four steps with the distilled adapter, as the table of docs/results/few-steps.md.

Calibrates such runs, lets `pareto` find the setting of each strategy for 3 and 2 computed steps, and runs all of them, and
every planned schedule with windows, over sixteen prompts with two seeds. PSNR is of the PNG frames: against a run of
30 steps with guidance and without the adapter, and against the dense run of four steps. Times are of the transformer, relative to
the dense run of four steps of the same prompt, the median over all runs.

    python tests/reference/few_steps.py --magcache target/release/magcache --out OUT
"""

import argparse
import math
import shutil
import statistics
import tomllib
from pathlib import Path

import numpy
from PIL import Image
from program import RESULTS, run, toml_of

MODEL = ["--model", "wan2.1-t2v-tiny"]
FEW = ["--steps", "4", "--sampler", "euler", "--flow-shift", "12", "--guidance", "1", "--lora", "builtin:4-step"]
STRATEGIES = "magcache,teacache,easycache,fbcache,dbcache,seacache,dicache".split(",")


def frames(magcache, folder, what):
    """Runs, and returns the frames `[frames, height, width, 3]` and the seconds of the transformer."""
    shutil.rmtree(folder, ignore_errors=True)
    answer, failed = run(magcache, "run", *what, "--out", folder, "--overwrite")
    if failed:
        raise SystemExit(f"{what}: {failed}")
    return stacked(folder), answer["transformer_seconds"]


def stacked(folder):
    return numpy.stack([numpy.asarray(Image.open(path), dtype=float) for path in sorted(folder.glob("*.png"))])


def psnr(a, b):
    error = ((a - b) ** 2).mean()
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def settings(magcache, out):
    """Names and configuration files of everything that is run with four steps."""
    profile = out / "four.toml"
    if not profile.exists():
        given = ["--prompts", RESULTS / "prompts-calibration-video.txt", "--windows", "1+1,2+1,5+0", "--out", profile]
        _, failed = run(magcache, "calibrate", *MODEL, *FEW, *given)
        if failed:
            raise SystemExit(failed)
    found = {"dense": None}
    for strategy in STRATEGIES:
        given = ["--prompts", RESULTS / "prompts-calibration-video.txt", "--profile", profile, "--search", 2]
        table = out / f"{strategy}.toml"
        table.write_text(f'[[cache]]\nstrategy = "{strategy}"\nwarmup = 1\n')
        for budget in [2, 3]:
            flags = ["--seeds", 0, "--budgets", budget, "--strategies", table]
            answer, failed = run(magcache, "pareto", *MODEL, *FEW, *given, *flags)
            rows = [] if failed else answer["rows"]
            own = [row for row in rows if row["name"] == strategy]
            if not own:
                print(f"{strategy} at {budget} of 4: {failed or 'the budget cannot be met'}")
            for row in rows:
                if row["name"] == "planner" or row["name"] == strategy:
                    found[f"{row['name']}, {budget} of 4"] = row["setting"]["cache"]
    text = profile.read_text()
    for plan in tomllib.loads(text)["plan"]:
        for own in plan.get("windowed", []):
            line = {"type": "taylor", "order": 1} if own["continuation"] == "line" else None
            tables = [{"strategy": "schedule", "at": part["at"], "skip": part["skip"]} for part in own["part"]]
            for table in tables:
                table.update({"forecast": line} if line else {})
            found[f"plan with windows, {own['time']:.2f}"] = tables
    for name, tables in found.items():
        if tables:
            (out / f"{name}.toml").write_text(toml_of(tables))
    return list(found)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--magcache", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1")
    args = parser.parse_args()
    args.out.mkdir(exist_ok=True, parents=True)
    names = settings(args.magcache, args.out)
    lines = (RESULTS / "prompts-video.txt").read_text().splitlines()
    prompts = [line for line in lines if line and not line.startswith("#")]
    rows = {name: [] for name in ["without the adapter", *names]}
    for prompt in prompts:
        for seed in args.seeds.split(","):
            what = [*MODEL, "--prompt", prompt, "--seed", seed]
            many, _ = frames(args.magcache, args.out / "many", [*what, "--steps", 30])
            plain, _ = frames(args.magcache, args.out / "plain", [*what, "--steps", 4])
            rows["without the adapter"].append((psnr(plain, many), math.nan, math.nan))
            dense, seconds = frames(args.magcache, args.out / "few", [*what, *FEW])
            rows["dense"].append((psnr(dense, many), math.inf, 1.0))
            for name in names[1:]:
                config = ["--config", args.out / f"{name}.toml"]
                own, took = frames(args.magcache, args.out / "few", [*what, *FEW, *config])
                rows[name].append((psnr(own, many), psnr(own, dense), took / seconds))
    print("| | time | against 30 steps, dB | below dense, paired | against dense, dB |")
    print("|---|---|---|---|---|")
    for name, own in rows.items():
        base = rows["dense"]
        below = [b[0] - a[0] for a, b in zip(own, base)]
        error = statistics.stdev(below) / math.sqrt(len(below))
        mean = statistics.mean(a[0] for a in own)
        other = [a[1] for a in own if math.isfinite(a[1])]
        shown = f"{statistics.mean(other):.2f}" if other else ""
        print(
            f"| {name} | {statistics.median(a[2] for a in own):.3f} | {mean:.2f} "
            f"| {statistics.mean(below):+.2f} ± {error:.2f} | {shown} |"
        )


if __name__ == "__main__":
    main()

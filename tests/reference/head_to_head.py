"""Every strategy with every forecast, planned schedules and fewer steps at equal computed steps, as the tables of
docs/results/head-to-head.md.

For each embedded model and solver: `calibrate` on the calibration prompts, then `pareto` over the other sixteen prompts
with two seeds each. Takes some hours on two cores; what is in OUT already is not run again.

    python tests/reference/head_to_head.py --magcache target/release/magcache --out OUT
    python tests/reference/head_to_head.py --out OUT --table > table.md
"""

import argparse
import json
import math
from pathlib import Path

from program import RESULTS, run

MODELS = {"tiny-flux": "image", "wan2.1-t2v-tiny": "video", "wan2.2-t2v-tiny": "video", "wan2.2-i2v-tiny": "video"}
SOLVERS = ["unipc", "euler"]
STRATEGIES = {
    "magcache": "",
    "teacache": "",
    "easycache": "",
    "fbcache": "",
    "fbcache-summed": 'dialect = "summed"',
    "dbcache": "warmup = 3",
    "seacache": "",
    "dicache": "",
    "sencache": "",
}
FORECASTS = {
    "residual": 'forecast = { type = "residual" }',
    "line": 'forecast = { type = "taylor", order = 1 }',
    "velocity": 'forecast = { type = "taylor", order = 1, of = "output", abscissa = "sigma", reach = 1.0 }',
    "gain": 'forecast = { type = "dicache" }',
}
# These replace whole forwards: there is no first block to look at.
FORWARD = {"easycache", "sencache"}


def contenders():
    """The name of each strategy with each forecast, and its table."""
    tables = {}
    for name, keys in STRATEGIES.items():
        for forecast, table in FORECASTS.items():
            if name in FORWARD and forecast == "gain":
                continue
            strategy = name.removesuffix("-summed")
            tables[f"{name}-{forecast}"] = f'[[cache]]\nstrategy = "{strategy}"\n{keys}\n{table}\n'
    return tables


def written(out):
    """A file for each."""
    for name, table in contenders().items():
        (out / f"{name}.toml").write_text(table)
    return [out / f"{name}.toml" for name in contenders()]


def sampling_of(model, solver):
    """Flags of the runs; the shift of the image model depends on the size, which UniPC does not know."""
    shift = ["--flow-shift", 3] if MODELS[model] == "image" and solver == "unipc" else []
    return ["--model", model, "--steps", 30, "--sampler", solver, *shift]


def measure(magcache, out, budget):
    for solver in SOLVERS:
        for model, kind in MODELS.items():
            place = out / f"{model}-{solver}"
            sampling = sampling_of(model, solver)
            prompts = RESULTS / f"prompts-{kind}.txt"
            profile = out / f"{place.name}.profile.toml"
            if not profile.exists():
                given = ["--prompts", RESULTS / f"prompts-calibration-{kind}.txt"]
                _, failed = run(magcache, "calibrate", *sampling, *given, "--sensitivities", "--out", profile)
                if failed:
                    print(place.name, "calibrate:", failed, flush=True)
                    continue
            flags = ["--budgets", budget, "--search", 1, "--seeds", "0,1", "--profile", profile]
            pareto = ["pareto", *sampling, "--prompts", prompts, *flags]
            result = out / f"{place.name}.json"
            if result.exists():
                continue
            files = written(out)
            found, failed = run(magcache, *pareto, "--strategies", ",".join(map(str, files)))
            if failed:
                # One that is refused stops the others.
                print(result.name, failed, flush=True)
                rows = []
                for file in files:
                    one, failed = run(magcache, *pareto, "--strategies", file)
                    rows += one["rows"] if one else [{"name": file.stem, "failed": failed}]
                found = {"rows": rows}
            result.write_text(json.dumps(found))
            print(result.name, "done", flush=True)


def paired(a, b):
    """Mean and standard error of the differences over the runs where both differ from their dense runs."""
    both = [x - y for x, y in zip(a, b) if x is not None and y is not None]
    if len(both) < 2:
        return None
    mean = sum(both) / len(both)
    spread = math.sqrt(sum((x - mean) ** 2 for x in both) / (len(both) - 1))
    return mean, spread / math.sqrt(len(both))


def table(out):
    for solver in SOLVERS:
        for model in MODELS:
            rows = {}
            file = out / f"{model}-{solver}.json"
            if file.exists():
                rows = {row["name"]: row for row in json.loads(file.read_text())["rows"]}
            if "planner" not in rows:
                continue
            print(f"\n## {model}, {solver}\n")
            print("| | computed | PSNR | SSIM | SSIMULACRA2 | planner above it | above fewer steps |")
            print("|---|---|---|---|---|---|---|")
            own = [row for row in rows.values() if "psnr" in row]
            for row in sorted(own, key=lambda row: -row["psnr"]):
                under = paired(rows["planner"]["psnr_by_run"], row["psnr_by_run"])
                over = paired(row["psnr_by_run"], rows["fewer steps"]["psnr_by_run"])
                sign = lambda found: "-" if found is None else f"{found[0]:+.2f} ± {found[1]:.2f}"
                print(
                    f"| {row['name']} | {row['computed']:.1f} | {row['psnr']:.2f} ± {row['psnr_error']:.2f} "
                    f"| {row['ssim']:.4f} | {row['ssimulacra2']:.1f} "
                    f"| {sign(under) if row['name'] != 'planner' else ''} "
                    f"| {sign(over) if row['name'] != 'fewer steps' else ''} |"
                )
            missing = sorted(name for name in contenders() if "psnr" not in rows.get(name, {}))
            if missing:
                print(f"\nRefused, or no threshold meets the budget: {', '.join(missing)}.")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--magcache")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget", type=int, default=12)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        return table(args.out)
    args.out.mkdir(exist_ok=True, parents=True)
    measure(args.magcache, args.out, args.budget)


if __name__ == "__main__":
    main()

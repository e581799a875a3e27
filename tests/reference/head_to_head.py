"""Every strategy with every forecast, planned schedules and fewer steps at equal computed steps, as the tables of
docs/results/head-to-head.md.

For each embedded model and solver: `calibrate` on the calibration prompts, then `pareto` over the other sixteen prompts
with two seeds each. Takes an hour or more on two cores; what is in OUT already is not run again.

    python tests/reference/head_to_head.py --magcache target/release/magcache --out OUT
    python tests/reference/head_to_head.py --out OUT --table > table.md
"""

import argparse
import json
import math
import subprocess
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[2] / "docs/results"
MODELS = {"wan2.1-t2v-tiny": "video", "tiny-flux": "image", "wan2.2-t2v-tiny": "video", "wan2.2-i2v-tiny": "video"}
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


def contenders(out):
    """One file for each strategy and forecast."""
    files = []
    for name, keys in STRATEGIES.items():
        for forecast, table in FORECASTS.items():
            if name in FORWARD and forecast == "gain":
                continue
            path = out / f"{name}-{forecast}.toml"
            strategy = name.removesuffix("-summed")
            path.write_text(f'[[cache]]\nstrategy = "{strategy}"\n{keys}\n{table}\n')
            files.append(path)
    return files


def run(magcache, *args):
    """The JSON document of a command, or its message."""
    done = subprocess.run([magcache, *map(str, args), "--json"], capture_output=True, text=True)
    if done.returncode != 0:
        return None, done.stderr.strip().splitlines()[-3:]
    return json.loads(done.stdout), None


def measure(magcache, out, budget):
    files = contenders(out)
    for solver in SOLVERS:
        for model, kind in MODELS.items():
            place = out / f"{model}-{solver}"
            sampling = ["--model", model, "--steps", 30, "--sampler", solver]
            prompts = RESULTS / f"prompts-{kind}.txt"
            profile = place.with_suffix(".toml")
            if not profile.exists():
                given = RESULTS / f"prompts-calibration-{kind}.txt"
                flags = ["--sensitivities"]
                _, failed = run(magcache, "calibrate", *sampling, "--prompts", given, "--out", profile, *flags)
                if failed:
                    print(place.name, "calibrate:", *failed)
                    continue
            for file in [None, *files]:
                label = file.stem if file else "fewer"
                result = out / f"{place.name}--{label}.json"
                if result.exists():
                    continue
                flags = ["--budgets", budget, "--search", 1, "--seeds", "0,1", "--profile", profile]
                flags += ["--strategies", file or "magcache"]
                found, failed = run(magcache, "pareto", *sampling, "--prompts", prompts, *flags)
                result.write_text(json.dumps(found if found else {"failed": failed}))
                print(result.name, failed or "done", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--magcache")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget", type=int, default=12)
    args = parser.parse_args()
    args.out.mkdir(exist_ok=True, parents=True)
    measure(args.magcache, args.out, args.budget)


if __name__ == "__main__":
    main()

"""The head-to-head at equal measured time, and what planned schedules were predicted to give: the tables of
docs/results/equal-time.md.

Goes on from what head_to_head.py left in OUT: measures the schedules of its profiles at other numbers of computed steps too, then, with
`compare`, the time of every contender's transformer relative to the dense runs in between. Let nothing else run beside the times.

    python tests/reference/equal_time.py --magcache target/release/magcache --out OUT
    python tests/reference/equal_time.py --out OUT --table > table.md
"""

import argparse
import json
import math
import statistics
import tomllib
from pathlib import Path

from head_to_head import MODELS, SOLVERS, paired, sampling_of
from program import RESULTS, run, toml_of

BUDGETS = [10, 14]
ROUNDS = 2
# Contenders shown of each model and solver.
CLOSEST = 4


def places(out):
    """Model, solver, and where what belongs to them lies, without an ending."""
    return [(model, solver, out / f"{model}-{solver}") for solver in SOLVERS for model in MODELS]


def wanted(path, magcache, *args):
    """The document that a command wrote to ``path``; it runs if there is none."""
    if not path.exists():
        found, failed = run(magcache, *args)
        if failed:
            raise SystemExit(f"{path.name}: {failed}")
        path.write_text(json.dumps(found))
        print(path.name, "done", flush=True)
    return json.loads(path.read_text())


def settings(out, place, rows):
    """A file with the setting of each row, named after it."""
    folder, profile = out / f"{place.name}.settings", str((out / f"{place.name}.profile.toml").resolve())
    folder.mkdir(exist_ok=True)
    for row in rows:
        tables = [{**table, **({"profile": profile} if "profile" in table else {})} for table in row["setting"]["cache"]]
        (folder / f"{label(row)}.toml").write_text(toml_of(tables))
    return [folder / f"{label(row)}.toml" for row in rows]


def label(row):
    """Planned schedules are told apart by what they compute."""
    planned = row["name"].startswith("planner")
    return f"{row['name'].replace(', ', '-')}-{row['budget']}" if planned else row["name"]


def rows_of(out, place):
    """What was measured for a model and a solver: all contenders at 12 steps, planned schedules at other numbers too."""
    rows = [row for row in json.loads((out / f"{place.name}.json").read_text())["rows"] if "psnr" in row]
    more = json.loads((out / f"{place.name}.plans.json").read_text())["rows"]
    return rows + [row for row in more if row["name"].startswith("planner") or row["name"] == "fewer steps"]


def measure(magcache, out):
    for model, solver, place in places(out):
        prompts = RESULTS / f"prompts-{MODELS[model]}.txt"
        flags = ["--budgets", ",".join(map(str, BUDGETS)), "--search", 1, "--seeds", "0,1"]
        flags += ["--profile", out / f"{place.name}.profile.toml", "--strategies", "magcache"]
        wanted(out / f"{place.name}.plans.json", magcache, "pareto", *sampling_of(model, solver), "--prompts", prompts, *flags)
    for model, solver, place in places(out):
        prompts = RESULTS / f"prompts-{MODELS[model]}.txt"
        first = next(line for line in prompts.read_text().splitlines() if line and not line.startswith("#"))
        files = settings(out, place, [row for row in rows_of(out, place) if row["name"] != "fewer steps"])
        flags = ["--prompt", first, "--seeds", 0, "--repeat", ROUNDS, "--overwrite", "--out", out / "compared"]
        wanted(out / f"{place.name}.times.json", magcache, "compare", *sampling_of(model, solver), *flags, *files)


def with_windows(skip):
    """A planned schedule whose gaps end with a window: in the six longest, the last step runs the first and the last of six blocks, which
    together takes the time of two more computed steps."""
    gaps, skip = [], sorted(skip)
    for step in skip:
        if gaps and gaps[-1][-1] == step - 1:
            gaps[-1].append(step)
        else:
            gaps.append([step])
    ends = sorted(gap[-1] for gap in sorted(gaps, key=len, reverse=True)[:6])
    line = {"type": "taylor", "order": 1}
    whole = {"strategy": "schedule", "at": "0..6", "skip": [step for step in skip if step not in ends], "forecast": line}
    return [whole, {"strategy": "schedule", "at": "1..5", "skip": ends, "forecast": line}]


def windows(magcache, out):
    """Planned schedules beside those with two steps less and windows in their place, run by run."""
    model = "wan2.1-t2v-tiny"
    place = out / f"{model}-unipc"
    plans = {row["budget"]: row for row in rows_of(out, place) if row["name"] == "planner"}
    files, prompts = [], (RESULTS / f"prompts-{MODELS[model]}.txt").read_text().splitlines()
    for more, few in [(12, 10), (14, 12)]:
        cache = plans[few]["setting"]["cache"][0]
        plan = plans[more]["setting"]["cache"][0]
        for name, tables in [(f"plan-{more}", [plan]), (f"windows-{more}", with_windows(cache["skip"]))]:
            files.append(out / f"{name}.toml")
            files[-1].write_text(toml_of(tables))
    flags = ["--seeds", "0,1", "--overwrite", "--out", out / "compared"]
    prompts = [line for line in prompts if line and not line.startswith("#")]
    for i, prompt in enumerate(prompts):
        wanted(out / f"windows-{i}.json", magcache, "compare", *sampling_of(model, "unipc"), "--prompt", prompt, *flags, *files)


def beside_windows(out):
    """The table of :func:`windows`."""
    documents = [json.loads(path.read_text()) for path in sorted(out.glob("windows-*.json"))]
    runs = {}
    for document in documents:
        for row in document["rows"]:
            if row["role"] == "config":
                own = runs.setdefault(row["name"], ([], []))
                own[0].append(1 / row["transformer_speedup"])
                own[1].extend(seed["psnr"] for seed in row["seeds"])
    print("\n| | time | PSNR | plan above windows |\n|---|---|---|---|")
    for name, (times, values) in runs.items():
        rival = runs.get(name.replace("plan", "windows")) if name.startswith("plan") else None
        above = shown(paired(values, rival[1])) if rival else ""
        print(f"| {name} | {statistics.median(times):.3f} | {statistics.mean(values):.2f} | {above} |")


def between(points, time):
    """PSNR of each run at a time, on the line between the two nearest of ``points``, (time, PSNR of each run). Beside a time beyond the
    last of them that one stands, which is faster."""
    points = sorted(points)
    if time < points[0][0]:
        return None
    if time >= points[-1][0]:
        return points[-1][1]
    right = next(i for i, (own, _) in enumerate(points) if own > time)
    (t0, before), (t1, behind) = points[right - 1 : right + 1]
    part = (time - t0) / (t1 - t0)
    mix = lambda a, b: None if a is None or b is None else a + (b - a) * part
    return [mix(a, b) for a, b in zip(before, behind)]


def shown(difference):
    return "-" if difference is None else f"{difference[0]:+.2f} ± {difference[1]:.2f}"


def at_equal_time(out):
    """For each model and solver the contenders that come closest to the planner at their own time, and how long each kind takes."""
    print("\n| | contender | computed | time | PSNR | planner above it at its time |\n|---|---|---|---|---|---|")
    taken = {}
    for model, solver, place in places(out):
        document = json.loads((out / f"{place.name}.times.json").read_text())
        times = {row["name"]: 1 / row["transformer_speedup"] for row in document["rows"]}
        rows = rows_of(out, place)
        planned = [(times[label(row)], row["psnr_by_run"]) for row in rows if row["name"] == "planner"]
        found = []
        for row in rows:
            if row["name"].startswith("planner") or (row["budget"] != 12 and row["name"] != "fewer steps"):
                continue
            fewer = row["name"] == "fewer steps"
            time = row["computed"] / 30 if fewer else times[label(row)]
            name = f"{row['name']}, {row['budget']}" if fewer else row["name"]
            taken.setdefault((model, row["name"].rsplit("-", 1)[0]), []).append(time)
            own = between(planned, time)
            if own:
                found.append((paired(own, row["psnr_by_run"]), name, row["computed"], time, row["psnr"]))
        for difference, name, computed, time, psnr in sorted(found, key=lambda row: row[0][0])[:CLOSEST]:
            print(f"| `{model}`, {solver} | {name} | {computed:.1f} | {time:.3f} | {psnr:.2f} | {shown(difference)} |")
    names = sorted({name for _, name in taken if name != "fewer steps"})
    print("\n| | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    for model in MODELS:
        own = [taken.get((model, name), []) for name in names]
        print(f"| `{model}` | " + " | ".join(f"{min(x):.2f} to {max(x):.2f}" if x else "" for x in own) + " |")


def predictions(out):
    """What the planner expects of its schedules beside what they give on prompts that calibration has not seen."""
    computed = sorted([*BUDGETS, 12])
    print("\n| | " + " | ".join(f"{n} computed" for n in computed) + " |\n|---|" + "---|" * len(computed))
    for model, solver, place in places(out):
        plans = tomllib.loads((out / f"{place.name}.profile.toml").read_text())["plan"][0]["schedule"]
        error = {own["computed"]: own["error"] for own in plans}
        found = {row["budget"]: row["psnr"] for row in rows_of(out, place) if row["name"] == "planner"}
        cells = [f"{-20 * math.log10(error[n]):.1f} / {found[n]:.1f}" for n in computed]
        print(f"| `{model}`, {solver} | " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--magcache")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        predictions(args.out)
        at_equal_time(args.out)
        return beside_windows(args.out)
    measure(args.magcache, args.out)
    windows(args.magcache, args.out)


if __name__ == "__main__":
    main()

"""What follows from new weights of a small model: its planned schedules, the tables of pareto.md, and scenes of the demo.

    python tests/reference/tiny_results.py plan wan2.1-t2v-tiny --magcache target/release/magcache --out OUT
    python tests/reference/tiny_results.py scene wan2.1-t2v-tiny --magcache target/release/magcache --seed 0 --computed 15 \
        --prompt "a cyan circle moving up in fog"

`plan` calibrates a schedule, compares it with every strategy at several numbers of computed steps, puts the schedules that
`pareto --save` keeps into the profile in the repository, and prints the two tables of pareto.md. What was measured once
in OUT is not measured again. The program has to be built again afterwards, because profiles are inside it.

`table FILE` prints those of what any `magcache pareto --json` wrote.

`scene` prints a scene of magcache-cli/src/cmd/demo/gallery.toml: thresholds with which strategies compute about as many
steps as the planned schedule. Curves come from `calibrate_tiny.py` and `make_profiles.py`, before either.
"""

import argparse
import json
import tempfile
from pathlib import Path

from program import RESULTS, run, toml_of

PROFILES = Path(__file__).resolve().parents[2] / "magcache-models/data"
# Prompts, numbers of computed steps, and the drawing of each model.
MODELS = {
    "tiny-flux": ("image", "8,10,12,14,17,20", "pareto-image.svg"),
    "wan2.1-t2v-tiny": ("video", "10,13,16,19,22", "pareto-video.svg"),
    "wan2.2-t2v-tiny": ("video", "14,20,26", "pareto-pair.svg"),
    "wan2.2-i2v-tiny": ("video", "10,15,20", "pareto-image-to-video.svg"),
}
LANES = ("magcache", "teacache", "fbcache")
HALVINGS = 14


def checked(magcache, *args):
    document, message = run(magcache, *args)
    if document is None:
        raise SystemExit(message)
    return document


def plan(args):
    kind, budgets, plot = MODELS[args.model]
    args.out.mkdir(parents=True, exist_ok=True)
    own, saved, measured = (args.out / f"{args.model}{end}" for end in (".toml", "-saved.toml", ".json"))
    model = ["--model", args.model, "--seeds", "0,1", "--overwrite"]
    if not own.exists():
        checked(args.magcache, "calibrate", *model, "--prompts", RESULTS / f"prompts-calibration-{kind}.txt", "--out", own)
    if not measured.exists():
        given = ["--profile", own, "--prompts", RESULTS / f"prompts-{kind}.txt", "--search", 4, "--budgets", budgets]
        document = checked(args.magcache, "pareto", *model, *given, "--plot", RESULTS / plot, "--save", saved)
        measured.write_text(json.dumps(document))
    profile, schedules = PROFILES / f"{args.model}.toml", saved.read_text()
    curve = profile.read_text()
    profile.write_text(curve[: curve.index("[[plan]]")] + schedules[schedules.index("[[plan]]") :])
    print("\n\n".join(tables(json.loads(measured.read_text())["rows"])))


def tables(rows):
    """Quality, and what it is above as many steps without a cache, as Markdown."""
    at = {(row["budget"], row["name"]): row for row in rows}
    names = list(dict.fromkeys(row["name"] for row in rows))

    def quality(row):
        return f"{row['psnr']:.2f} ± {row['psnr_error']:.2f} " + f"{row['ssim']:.4f}".removeprefix("0")

    def above(row):
        return f"{row['above_fewer_steps']:+.2f} ± {row['above_fewer_steps_error']:.2f}"

    for cell, columns in ((quality, names), (above, [name for name in names if name != "fewer steps"])):
        lines = [f"| computed | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        for budget in sorted({row["budget"] for row in rows}):
            cells = [cell(at[budget, name]) if (budget, name) in at else "" for name in columns]
            lines.append(f"| {budget} | {' | '.join(cells)} |")
        yield "\n".join(lines)


def scene(args):
    with tempfile.TemporaryDirectory() as folder:
        prompts = Path(folder) / "prompts.txt"
        prompts.write_text(args.prompt + "\n")
        given = ["--prompts", prompts, "--seeds", args.seed, "--search", 1, "--budgets", args.computed]
        found = checked(args.magcache, "pareto", "--model", args.model, *given)
        rows = {row["name"]: row for row in found["rows"]}
        lanes = {}
        for name in LANES:
            if name in rows:
                lanes[name] = rows[name]["setting"]["cache"][0]
            else:
                lanes[name] = {"strategy": name, "threshold": nearest(args, name, found["steps"], Path(folder))}
    head = {"model": args.model, "prompt": args.prompt, "seed": args.seed, "computed": args.computed}
    print("[[scene]]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in head.items()) + "\n\n[scene.lanes]")
    for name, setting in lanes.items():
        ordered = {"strategy": setting["strategy"]} | setting
        inline = toml_of([ordered]).split("\n")[1:-1]
        print(f"{name} = {{ {', '.join(inline)} }}")
    print("# " + ", ".join(f"{name} {row['psnr']:.1f} dB" for name, row in rows.items()))


def nearest(args, strategy, steps, folder):
    """The threshold whose run computes as many steps as asked for, or the closest one."""
    low, high, best = 0.005, 1.0, None
    out = folder / ("out.png" if MODELS[args.model][0] == "image" else "out.gif")
    for _ in range(HALVINGS):
        threshold = float(f"{(low * high) ** 0.5:.4g}")
        given = ["--prompt", args.prompt, "--seed", args.seed, "--cache", strategy, "--set", f"threshold={threshold}"]
        skipped = checked(args.magcache, "run", "--model", args.model, *given, "--out", out, "--overwrite")["skipped"]
        computed = steps - sum(map(len, skipped.values())) / len(skipped)
        distance = abs(computed - args.computed)
        if best is None or distance < best[0]:
            best = (distance, threshold)
        if distance == 0:
            break
        low, high = (threshold, high) if computed > args.computed else (low, threshold)
    return best[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = parser.add_subparsers(dest="way", required=True)
    for way in ("plan", "scene"):
        own = ways.add_parser(way)
        own.add_argument("model", choices=MODELS)
        own.add_argument("--magcache", required=True)
    ways.choices["plan"].add_argument("--out", type=Path, required=True)
    ways.add_parser("table").add_argument("file", type=Path)
    own.add_argument("--prompt", required=True)
    own.add_argument("--seed", type=int, default=0)
    own.add_argument("--computed", type=int, required=True)
    args = parser.parse_args()
    if args.way == "table":
        print("\n\n".join(tables(json.loads(args.file.read_text())["rows"])))
    else:
        plan(args) if args.way == "plan" else scene(args)


if __name__ == "__main__":
    main()

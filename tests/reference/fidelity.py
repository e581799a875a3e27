"""Whether pictures and videos show what their prompt says, judged by a program that knows the grammar and no network.

    python tests/reference/fidelity.py run --magcache target/release/magcache --model wan2.1-t2v-tiny --out OUT
    python tests/reference/fidelity.py judge --prompts PROMPTS.txt --clips OUT
    python tests/reference/fidelity.py check

`run` has the program make a clip for every prompt, without a cache and with `--cache magcache`, in OUT/MODEL; clips that are
there already are not made again. `judge` reads what
`magcache run --prompts PROMPTS.txt --out OUT` made: folders of PNG frames, or .png, .gif and .webp files, and a GIF
has other colours than were computed. `check` judges drawn scenes (all should be right), the same scenes with each
other's prompts (chance), and ones with blur, noise and dimmed colours.

Of all prompts, the percentage where
  colour     every colour of the prompt is seen, and no other one
  shape      each outline fits that of the prompt best, with IoU 0.7 or more at the best position, size and rotation
  count      as many objects are seen as the prompt has
  motion     each object moves as the prompt says, by 7 % of the picture or more
  texture    each texture is that of the prompt
  place      the background is that of the prompt
  all        all of these hold
"""

import argparse
import itertools
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from fidelity_grammar import Grammar
from fidelity_look import look
from PIL import Image, ImageSequence
from scipy import ndimage

FIT = 0.7  # IoU of a shape that counts as drawn
COLUMNS = ("colour", "shape", "count", "motion", "texture", "place", "all")


def read(path):
    """Frames [frames, height, width, 3] of a folder of PNG files or of one picture or animation."""
    if path.is_dir():
        return np.stack([np.asarray(Image.open(file).convert("RGB")) for file in sorted(path.glob("*.png"))])
    with Image.open(path) as image:
        return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])


def score(seen, place, prompt, grammar):
    """Which of COLUMNS hold, and the IoU of each object with the outline that the prompt names."""
    things, asked_place = grammar.parse(prompt)
    found = {"colour": {one.colour for one in seen} == {thing.colour for thing in things}}
    found["count"] = sum(one.parts for one in seen) == len(things)
    # Objects are told apart by their colours, or where those are wrong, so that most of the rest is right.
    pairings = [list(zip(things, order)) for order in itertools.permutations(seen, len(things))]

    def rights(pairs):
        shape = all(one.shape == thing.shape and one.fits[thing.shape] >= FIT for thing, one in pairs)
        own = {"shape": shape}
        if any(thing.motion for thing in things):
            own["motion"] = all(thing.motion == one.motion for thing, one in pairs)
        own["texture"] = all(thing.texture == one.texture for thing, one in pairs)
        return (sum(thing.colour == one.colour for thing, one in pairs), sum(own.values())), own, pairs

    nothing = dict.fromkeys(("shape", "motion", "texture") if things[0].motion else ("shape", "texture"), False)
    _, own, pairs = max((rights(pairs) for pairs in pairings), key=lambda r: r[0], default=(0, nothing, []))
    found |= own
    found["place"] = place == asked_place
    found["all"] = all(found.values())
    ious = [one.fits[thing.shape] for thing, one in pairs] + [0.0] * (len(things) - len(pairs))
    return found, ious


def summary(results):
    """Percentages of COLUMNS, the mean IoU, and how many clips there are, of ``(prompt, found, ious)``."""
    rows = {name: [found[name] for _, found, _ in results if name in found] for name in COLUMNS}
    table = {name: round(100 * float(np.mean(row)), 1) for name, row in rows.items() if row}
    return {"clips": len(results), **table, "iou": round(float(np.mean([x for *_, i in results for x in i])), 3)}


def judge(grammar, prompts, clip):
    """Results of all prompts; ``clip(i)`` gives the frames of the i-th."""
    results = []
    for i, prompt in enumerate(prompts):
        seen, place = look(clip(i), grammar)
        results.append((prompt, *score(seen, place, prompt, grammar)))
    return results


def table(rows):
    """Rows ``(name, summary)`` as a table in Markdown."""
    columns = [name for name in ("clips", *COLUMNS, "iou") if any(name in own for _, own in rows)]
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(str(own.get(c, "")) for c in columns) + " |" for name, own in rows]
    return "\n".join(lines)


def check(args):
    """Scores of drawn scenes, as they are and spoilt."""
    random = np.random.default_rng(0)
    grammar = Grammar()
    prompts, draw = grammar.scenes(args.count, args.seed, motion=not args.still)
    clips = [draw(prompt) for prompt in prompts]
    blur = grammar.size / 64

    def dim(i):
        return (clips[i] * 0.5 + 50).astype(np.uint8)

    def noisy(deviation):
        return lambda i: (clips[i] + random.normal(0, deviation, clips[i].shape)).clip(0, 255).astype(np.uint8)

    def blurred(pixels):
        return lambda i: ndimage.gaussian_filter(clips[i], (0, pixels, pixels, 0))

    ways = {
        "as drawn": lambda i: clips[i],
        "another prompt's": lambda i: clips[(i + 1) % len(clips)],
        "noise of 8 of 255": noisy(8),
        "noise of 25": noisy(25),
        f"blur of {blur:g} pixels": blurred(blur),
        f"blur of {3 * blur:g} pixels": blurred(3 * blur),
        "half the contrast": dim,
        "time reversed": lambda i: clips[i][::-1],
    }
    rows = [(name, summary(judge(grammar, prompts, way))) for name, way in ways.items()]
    print(table(rows), flush=True)


def run(args):
    """Has the program make all clips of a model, and judges them."""
    grammar = Grammar()
    prompts, draw = grammar.scenes(args.count, args.seed, motion=not args.still)
    out = args.out / Path(args.model).name
    answers, rows = {}, []
    for name, flags in [("dense", []), ("--cache magcache", ["--cache", "magcache"])]:
        folder = out / name.split()[-1]
        folder.mkdir(parents=True, exist_ok=True)
        command = [args.magcache, "run", "--model", args.model, *flags, *args.flags.split()]
        paths = make(command, prompts, draw if args.image else None, folder, args.still)
        results = judge(grammar, prompts, lambda i: read(paths[i]))
        rows.append((f"{Path(args.model).name}, {name}", summary(results)))
        answers[name] = {**rows[-1][1], "prompts": {p: found | {"iou": ious} for p, found, ious in results}}
    print(table(rows), flush=True)
    (out / "fidelity.json").write_text(json.dumps(answers, indent=1) + "\n")


def numbered(out, count):
    """The names that `--prompts` gives to ``count`` results of `--out`: OUT-01 or OUT-01.png; a single one is OUT."""
    if count == 1:
        return [out]
    return [out.with_name(f"{out.stem}-{i + 1:0{len(str(count))}}{out.suffix}") for i in range(count)]


def make(command, prompts, draw, folder, still):
    """Makes a clip for each prompt, AT_A_TIME prompts with one seed; with ``draw``, each from its drawn first frame."""
    paths = []
    for begin in range(0, len(prompts), 1 if draw else AT_A_TIME):
        own = prompts[begin : begin + (1 if draw else AT_A_TIME)]
        out = folder / f"{begin:03}{'.png' if still else ''}"
        names = numbered(out, len(own))
        paths += names
        if all(path.exists() for path in names):
            continue
        with tempfile.TemporaryDirectory() as inputs:
            listed, first = Path(inputs) / "prompts.txt", Path(inputs) / "first.png"
            listed.write_text("\n".join(own) + "\n")
            given = ["--prompts", listed, "--seed", begin // AT_A_TIME, "--out", out, "--overwrite", "--quiet"]
            if draw:
                Image.fromarray(draw(own[0])[0]).save(first)
                given += ["--image", first]
            subprocess.run([*command, *map(str, given)], check=True)
    return paths


AT_A_TIME = 25  # prompts with one seed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = parser.add_subparsers(dest="way", required=True)
    own = ways.add_parser("run")
    own.add_argument("--magcache", required=True)
    own.add_argument("--model", required=True)
    own.add_argument("--still", action="store_true", help="the model makes pictures")
    own.add_argument("--image", action="store_true", help="give the drawn first frame of each prompt's scene")
    own.add_argument("--flags", default="", help="more flags of the program, such as '--steps 15'")
    own.add_argument("--out", type=Path, required=True)
    own.add_argument("--count", type=int, default=200, help="prompts, as far as the grammar has that many")
    own.add_argument("--seed", type=int, default=1000)
    own = ways.add_parser("judge")
    own.add_argument("--prompts", type=Path, required=True)
    own.add_argument("--clips", required=True)
    own = ways.add_parser("check")
    own.add_argument("--count", type=int, default=100)
    own.add_argument("--seed", type=int, default=1000)
    own.add_argument("--still", action="store_true", help="pictures in place of videos")
    args = parser.parse_args()
    if args.way == "judge":
        lines = args.prompts.read_text().splitlines()
        prompts = [line for line in lines if line.strip() and not line.startswith("#")]
        paths = numbered(Path(args.clips), len(prompts))
        print(table([(args.clips, summary(judge(Grammar(), prompts, lambda i: read(paths[i]))))]))
    else:
        {"run": run, "check": check}[args.way](args)


if __name__ == "__main__":
    main()

"""The moving picture of the README: rows are scenes of the demo's gallery, columns its lanes.

    magcache demo --out OUT/demo
    python tests/reference/demo_gif.py --magcache target/release/magcache --demo OUT/demo --gif docs/results/demo.gif

Every lane runs again from the configuration that lies beside its video, into PNG frames.
"""

import argparse
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw
from program import run

LANES = ["dense", "planner", "magcache", "teacache", "fbcache", "fewer steps"]
SIDE, GAP, HEAD = 128, 2, 18
COLOURS, FRAME_STEP = 128, 2


def frames(magcache, config, folder):
    """The frames of a run, RGB."""
    _, failed = run(magcache, "run", "--config", config, "--out", folder)
    if failed:
        raise SystemExit(f"{config}: {failed}")
    return [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.png"))]


def lanes(scene):
    """The configuration of each lane of a scene's folder."""
    found = {path.name.split(".")[0]: path for path in scene.glob("*.toml")}
    fewer = sorted((name for name in found if name.endswith("-steps")), key=lambda name: int(name.split("-")[0]))
    return [found[fewer[0] if name == "fewer steps" else name] for name in LANES]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--magcache", required=True)
    parser.add_argument("--demo", type=Path, required=True)
    parser.add_argument("--gif", type=Path, required=True)
    args = parser.parse_args()
    scenes = [folder for folder in sorted(args.demo.iterdir()) if list(folder.glob("dense.mp4"))]
    with tempfile.TemporaryDirectory() as place:
        videos = [
            [frames(args.magcache, config, Path(place) / f"{row}-{column}") for column, config in enumerate(lanes(scene))]
            for row, scene in enumerate(scenes)
        ]
    step = SIDE + GAP
    pictures = []
    for i in range(0, len(videos[0][0]), FRAME_STEP):
        sheet = Image.new("RGB", (len(LANES) * step - GAP, HEAD + len(videos) * step - GAP), "white")
        for row, scene in enumerate(videos):
            for column, video in enumerate(scene):
                sheet.paste(video[i], (column * step, HEAD + row * step))
        draw = ImageDraw.Draw(sheet)
        for column, name in enumerate(LANES):
            draw.text((column * step + 2, 4), name, fill="black")
        pictures.append(sheet)
    # One palette for all frames, so that nothing flickers.
    every = Image.new("RGB", (pictures[0].width, pictures[0].height * len(pictures)))
    for i, picture in enumerate(pictures):
        every.paste(picture, (0, i * picture.height))
    palette = every.quantize(COLOURS, kmeans=1)
    first, *rest = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    args.gif.parent.mkdir(parents=True, exist_ok=True)
    first.save(args.gif, save_all=True, append_images=rest, duration=125 * FRAME_STEP, loop=0, optimize=True)
    print(args.gif, args.gif.stat().st_size, "bytes")


if __name__ == "__main__":
    main()

"""Writes cases of prompts and of pictures for `magcache verify`; the scripts beside it record them."""

import json


def tokens(folder, kind, max_length, pad, prompts, model_folder=None):
    """A case of a tokenizer. `prompts` has a row for each prompt, without padding."""
    head = {"group": "tokenizers", "case": folder.name, "tokenizer": kind}
    if model_folder:
        head["model_folder"] = model_folder
    head |= {"max_length": max_length, "pad": pad}
    rows = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in prompts)
    text = json.dumps(head, indent=1)[:-2] + ',\n "prompts": [\n' + rows + "\n ]\n}\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "case.json").write_text(text)


def pictures(folder, keys):
    """A case of pictures from the names of their tensors."""
    calls = []
    for key in sorted(keys):
        kind, *rest = key.split(".")
        size = [int(side) for side in rest[-1].split("x")] if kind in ("scale", "cover", "frame") and rest[-1] != "source" else None
        inputs, output = {"picture": "scale.source"}, "rgb8"
        if key.endswith(".source"):
            continue
        if kind == "file":
            name, inputs = key[5:], {}
            # Two correct JPEG decoders round differently, and upsample colours of half resolution with different filters.
            tolerance, mean = (14, 2.0) if name == "subsampled.jpg" else (3, 1.0) if name.endswith(".jpg") else (0, None)
            args = {"read": name}
        elif kind in ("scale", "cover"):
            tolerance, mean = 0, None
            args = {"resize": {"filter": rest[0], "size": size}} if kind == "scale" else {"cover": size}
        elif kind == "frame":
            tolerance, mean, output, args = 1e-6, None, "pixels", {"frame": size}
        else:
            tolerance, mean, output = 1e-6, None, "pixels"
            inputs = {"picture": f"clip.{rest[0]}.source"}
            args = {"clip": {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}}
        args["tolerance"] = tolerance
        if mean is not None:
            args["mean"] = mean
        calls.append({"name": key, "args": args} | ({"inputs": inputs} if inputs else {}) | {"outputs": {output: key}})
    case = {"group": "pictures", "case": folder.name, "calls": calls}
    (folder / "case.json").write_text(json.dumps(case, indent=1) + "\n")

"""How diffusers' converters map the tensors of the published Flux transformers, row by row.

    python tests/reference/flux_native_names.py tests/fixtures/flux_native_names.json

Needs torch and diffusers (0.42.1 made the file in the repository). The native names are those of `Flux` in the `model.py`
that Black Forest Labs publish with FLUX.1 and FLUX.2. The converters are those of `diffusers.loaders.single_file_utils`.
Every native tensor has as many rows as the published one, and every row its own number, so that the rows of the
converted tensors are found by value. Fails unless all native tensors are used, the converted names and rows are exactly
those of the diffusers class, and all blocks of a list are treated alike; therefore blocks are written once, with `*` for their number.

For every native tensor: its shape, and where its rows come from, in order: tensor of the diffusers layout, first row
in it, number of rows.
"""

import json
import re
import sys
from pathlib import Path

import torch
from diffusers import Flux2Transformer2DModel, FluxTransformer2DModel
from diffusers.loaders.single_file_utils import (
    convert_flux2_transformer_checkpoint_to_diffusers,
    convert_flux_transformer_checkpoint_to_diffusers,
)

# The settings of the published configurations that differ from the defaults of the classes.
FLUX1 = {"flux1-dev": {"guidance_embeds": True}, "flux1-schnell": {"guidance_embeds": False}}
KLEIN = {"guidance_embeds": False, "num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24,
         "joint_attention_dim": 7680}
FLUX2 = {"flux2-dev": {}, "flux-2-klein-4b": KLEIN}


def flux1(config, inner):
    """Names and numbers of rows of FLUX.1."""
    rows = {}

    def linear(name, count):
        rows.update({f"{name}.weight": count, f"{name}.bias": count})

    for name in ["time_in", "vector_in"] + ["guidance_in"] * config["guidance_embeds"]:
        linear(f"{name}.in_layer", inner)
        linear(f"{name}.out_layer", inner)
    linear("img_in", inner)
    linear("txt_in", inner)
    for i in range(config["num_layers"]):
        for stream in ("img", "txt"):
            block = f"double_blocks.{i}.{stream}"
            linear(f"{block}_mod.lin", 6 * inner)
            linear(f"{block}_attn.qkv", 3 * inner)
            linear(f"{block}_attn.proj", inner)
            linear(f"{block}_mlp.0", 4 * inner)
            linear(f"{block}_mlp.2", inner)
            rows.update({f"{block}_attn.norm.{x}_norm.scale": config["attention_head_dim"] for x in ("query", "key")})
    for i in range(config["num_single_layers"]):
        block = f"single_blocks.{i}"
        linear(f"{block}.modulation.lin", 3 * inner)
        linear(f"{block}.linear1", 7 * inner)
        linear(f"{block}.linear2", inner)
        rows.update({f"{block}.norm.{x}_norm.scale": config["attention_head_dim"] for x in ("query", "key")})
    linear("final_layer.adaLN_modulation.1", 2 * inner)
    linear("final_layer.linear", config["in_channels"])
    return rows


def flux2(config, inner):
    """Names and numbers of rows of FLUX.2."""
    hidden = int(config["mlp_ratio"] * inner)
    rows = {"img_in": inner, "txt_in": inner, "single_stream_modulation.lin": 3 * inner}
    for name in ["time_in"] + ["guidance_in"] * config["guidance_embeds"]:
        rows.update({f"{name}.in_layer": inner, f"{name}.out_layer": inner})
    for stream in ("img", "txt"):
        rows[f"double_stream_modulation_{stream}.lin"] = 6 * inner
        for i in range(config["num_layers"]):
            block = f"double_blocks.{i}.{stream}"
            rows.update({f"{block}_attn.qkv": 3 * inner, f"{block}_attn.proj": inner, f"{block}_mlp.0": 2 * hidden,
                         f"{block}_mlp.2": inner})
    for i in range(config["num_single_layers"]):
        rows.update({f"single_blocks.{i}.linear1": 3 * inner + 2 * hidden, f"single_blocks.{i}.linear2": inner})
    rows.update({"final_layer.adaLN_modulation.1": 2 * inner, "final_layer.linear": config["in_channels"]})
    rows = {f"{name}.weight": count for name, count in rows.items()}
    norms = [f"double_blocks.{i}.{stream}_attn" for i in range(config["num_layers"]) for stream in ("img", "txt")]
    norms += [f"single_blocks.{i}" for i in range(config["num_single_layers"])]
    rows.update({f"{n}.norm.{x}_norm.scale": config["attention_head_dim"] for n in norms for x in ("query", "key")})
    return rows


def pieces(values):
    """Runs of consecutive numbers: first number and length, first row."""
    breaks = (values.diff() != 1).nonzero().flatten() + 1
    edges = [0, *breaks.tolist(), len(values)]
    return [(int(values[a]), b - a, a) for a, b in zip(edges, edges[1:])]


def recorded(cls, convert, native_rows, overrides):
    with torch.device("meta"):
        model = cls(**overrides)
    config, parameters = dict(model.config), dict(model.named_parameters())
    rows = native_rows(config, config["num_attention_heads"] * config["attention_head_dim"])
    checkpoint, owner, start = {}, {}, 0
    for name, count in rows.items():
        checkpoint[name] = torch.arange(start, start + count)
        owner[name] = (start, count)
        start += count
    converted = convert(checkpoint)
    assert set(converted) == set(parameters), set(converted) ^ set(parameters)
    runs = {}
    for name, values in converted.items():
        assert len(values) == parameters[name].shape[0], name
        for first, count, row in pieces(values):
            runs[first] = (name, row, count)
    tensors = {}
    for name, (first, count) in owner.items():
        held, end = [], first + count
        while first < end:
            held.append(runs.pop(first))
            first += held[-1][2]
        assert first == end, name
        shape = [count, *parameters[held[0][0]].shape[1:]]
        starred = lambda name: re.sub(r"(?<=blocks\.)\d+", "*", name)
        entry = {"shape": shape, "holds": [[starred(ours), row, rows] for ours, row, rows in held]}
        assert tensors.setdefault(starred(name), entry) == entry, name
    assert not runs, runs
    lists = {"double_blocks": config["num_layers"], "single_blocks": config["num_single_layers"]}
    given = {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()
             if not key.startswith("_")}
    print(f"{len(owner)} native tensors, {len(converted)} of diffusers")
    return {"config": given, "blocks": lists, "tensors": tensors}


def main():
    models = {}
    for name, overrides in FLUX1.items():
        models[name] = recorded(
            FluxTransformer2DModel, convert_flux_transformer_checkpoint_to_diffusers, flux1, overrides)
    for name, overrides in FLUX2.items():
        models[name] = recorded(
            Flux2Transformer2DModel, convert_flux2_transformer_checkpoint_to_diffusers, flux2, overrides)
    text = json.dumps(models, separators=(",", ":"), sort_keys=True)
    # One tensor per line.
    text = re.sub(r'(?<=[{,])("[^"]*":\{"holds")', r"\n\1", text)
    Path(sys.argv[1]).write_text(text + "\n")


if __name__ == "__main__":
    main()

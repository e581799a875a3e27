"""Write `magcache-models/data/*.toml`: the published curves, fits and settings, and what was measured on the small model.

    python tests/reference/make_profiles.py            write them
    python tests/reference/make_profiles.py --check    exit 1 if what is committed differs

`constants.json` beside this file holds numbers collected from public repositories, each with its source;
`magcache-models/tiny/*.calibration.json` was measured by `calibrate_tiny.py`, `*.sensitivity.json` by `sensitivity_tiny.py`. Planned schedules at the end of a profile stay as they are. Needs the package
`gguf` and nothing else.
"""

import argparse
import hashlib
import json
import struct
import sys
import textwrap
from pathlib import Path

from gguf import GGUFReader

HERE = Path(__file__).resolve().parent
MODELS = HERE.parents[1] / "magcache-models"
EMBEDDED = {
    "wan2.1-t2v-tiny": "The embedded text-to-video model",
    "wan2.2-t2v-tiny": "The embedded text-to-video pair of two experts",
    "wan2.2-i2v-tiny": "The embedded image-to-video model",
    "tiny-flux": "The embedded text-to-image model",
}
WAN_STEPS = {"plain": (1, 1), "ret-steps": (5, 0)}

# Written by `magcache calibrate` itself.
BY_CALIBRATE = ["wan2.2-s2v-tiny.toml"]


def curve(*ids, variant=None, dialect=None, branches=("cond",), **conditions):
    """A MagCache curve: one list from constants.json, or one for each of `branches`."""
    return {"ids": ids, "variant": variant, "dialect": dialect, "branches": branches, **conditions}


def fit(id, variant=None, signal="modulated-input", edge=(1, 1), key="coefficients"):
    """A TeaCache fit; `edge` is how many first and last steps are always computed."""
    return {"id": id, "variant": variant, "signal": signal, "edge": edge, "key": key}


def wan_fits(id):
    """The plain variant, and the one that computes the first steps and compares the projected time embedding."""
    return [
        fit(id, signal="timestep-embedding", edge=WAN_STEPS["plain"]),
        fit(f"{id}_ret_steps", "ret-steps", signal="timestep-projection", edge=WAN_STEPS["ret-steps"]),
    ]


def setting(id, variant=None):
    """What was published with a strategy for one model: the keys of its `[[part.STRATEGY]]`."""
    return {"id": id, "variant": variant}


def embedding_fit(id):
    return fit(id, signal="timestep-embedding")


# Profile -> (summary, curves, fits), the default variant of each first.
PROFILES = {
    "wan2.1-t2v-1.3b": ("Wan2.1 text to video, 1.3B", [curve("wan21_t2v_1_3b")], wan_fits("wan21_t2v_1_3b")),
    "wan2.1-t2v-14b": ("Wan2.1 text to video, 14B", [curve("wan21_t2v_14b")], wan_fits("wan21_t2v_14b")),
    "wan2.1-i2v-480p": ("Wan2.1 image to video, 14B, 480p", [curve("wan21_i2v_480p")], wan_fits("wan21_i2v_480p")),
    "wan2.1-i2v-720p": ("Wan2.1 image to video, 14B, 720p", [curve("wan21_i2v_720p")], wan_fits("wan21_i2v_720p")),
    "wan2.1-vace-1.3b": ("Wan2.1 VACE, 1.3B", [curve("wan21_vace_1_3b")], []),
    "wan2.1-vace-14b": ("Wan2.1 VACE, 14B", [curve("wan21_vace_14b")], []),
    "wan2.2-t2v-a14b": (
        "Wan2.2 text to video, two experts of 14B",
        [curve("wan22_t2v_a14b", flow_shift=12.0, boundary_ratio=0.875)],
        [],
    ),
    "wan2.2-i2v-a14b": (
        "Wan2.2 image to video, two experts of 14B",
        [curve("wan22_i2v_a14b", flow_shift=5.0, boundary_ratio=0.9)],
        [],
    ),
    "wan2.2-ti2v-5b": (
        "Wan2.2 text or image to video, 5B",
        [
            curve("wan22_ti2v_5b_t2v", variant="t2v", flow_shift=5.0),
            curve("wan22_ti2v_5b_i2v", variant="i2v", flow_shift=5.0),
        ],
        [],
    ),
    "flux.1-dev": (
        "FLUX.1 dev",
        [
            curve("flux1_dev", dialect="official-flux"),
            curve("vllm_omni_flux1", variant="vllm-omni", dialect="diffusers"),
        ],
        [fit("flux1")],
    ),
    "flux.1-kontext-dev": (
        "FLUX.1 Kontext dev",
        [
            curve("flux1_kontext_dev", dialect="official-flux"),
            curve("comfyui_flux_kontext_20", variant="comfyui-20", dialect="official-flux"),
        ],
        [],
    ),
    "flux.2": ("FLUX.2 dev", [curve("vllm_omni_flux2", dialect="diffusers")], [fit("vllm_omni_flux2")]),
    "flux.2-klein": ("FLUX.2 klein", [], [fit("vllm_omni_flux2_klein")]),
    "qwen-image": (
        "Qwen-Image",
        [
            curve("qwen_image", dialect="official-wan"),
            curve("comfyui_qwen_image", variant="comfyui-40", dialect="official-wan"),
        ],
        [fit("vllm_omni_qwen_image"), fit("mlx_teacache_qwen_image", "mlx")],
    ),
    "qwen-image-2512": ("Qwen-Image-2512", [], []),
    "z-image": ("Z-Image; no curve of MagCache is published", [], [fit("vllm_omni_z_image")]),
    "z-image-turbo": ("Z-Image-Turbo, 8 steps; no curve of MagCache is published", [], []),
    "qwen-image-edit": ("Qwen-Image-Edit", [curve("qwen_image_edit", dialect="official-wan")], []),
    "hunyuan-video-720p": (
        "HunyuanVideo, 720p",
        [curve("hunyuan_video_720p", dialect="official-hunyuan")],
        [fit("hunyuan_video")],
    ),
    "hunyuan-video-544p": (
        "HunyuanVideo, 544p",
        [curve("hunyuan_video_544p", dialect="official-hunyuan")],
        [fit("hunyuan_video")],
    ),
    "framepack": ("FramePack", [curve("framepack", dialect="official-framepack")], []),
    "framepack-f1": ("FramePack F1", [curve("framepack_f1", dialect="official-framepack")], []),
    "omnigen2-t2i": (
        "OmniGen2, text to image",
        [
            curve(
                "omnigen2_t2i_cond",
                "omnigen2_t2i_uncond",
                dialect="official-omnigen2",
                branches=("cond", "uncond"),
            )
        ],
        [],
    ),
    "omnigen2-edit": (
        "OmniGen2, image editing; branch other0 is the reference image's",
        [
            curve(
                "omnigen2_edit_cond",
                "omnigen2_edit_uncond",
                "omnigen2_edit_ref",
                dialect="official-omnigen2",
                branches=("cond", "uncond", "other0"),
            )
        ],
        [],
    ),
    "tangoflux": ("TangoFlux (audio)", [], [fit("tangoflux")]),
    "cosmos": ("Cosmos diffusion", [], [fit("cosmos")]),
    "ltx-video": ("LTX-Video", [], [fit("ltx_video")]),
    "mochi": ("Mochi 1", [], [fit("mochi")]),
    "lumina-t2x": ("Lumina-T2X (Next)", [], [fit("lumina_t2x")]),
    "lumina2": (
        "Lumina-Image 2.0",
        [],
        [fit("lumina2"), fit("lumina2", variant="v2", key="alternative_v2")],
    ),
    # Its first tenth of the steps is computed, rounded up, and its last step may be skipped.
    "hidream-i1": ("HiDream-I1", [], [fit("hidream_i1", signal="timestep-embedding", edge=(0.1, 0))]),
    "consisid": ("ConsisID", [], [embedding_fit("consisid")]),
    "cogvideox-2b": ("CogVideoX, 2B", [], [embedding_fit("cogvideox_2b")]),
    "cogvideox-5b": ("CogVideoX, 5B", [], [embedding_fit("cogvideox_5b")]),
    "cogvideox-5b-i2v": ("CogVideoX image to video, 5B", [], [embedding_fit("cogvideox_5b_i2v")]),
    "cogvideox1.5-5b": ("CogVideoX 1.5, 5B", [], [embedding_fit("cogvideox1_5_5b")]),
    "cogvideox1.5-5b-i2v": ("CogVideoX 1.5 image to video, 5B", [], [embedding_fit("cogvideox1_5_5b_i2v")]),
    "opensora": ("Open-Sora", [], [fit("opensora")]),
    "opensora-plan": ("Open-Sora-Plan", [], [fit("opensora_plan")]),
    "latte": ("Latte", [], [fit("latte")]),
}

# Profile -> strategy -> settings, the default variant first.
SETTINGS = {
    "wan2.1-t2v-1.3b": {
        "seacache": [setting("diffusers_wan_t2v"), setting("wan21_t2v_1_3b", "official")],
        "dicache": [setting("wan21")],
    },
    "wan2.1-t2v-14b": {
        "seacache": [setting("diffusers_wan_t2v"), setting("wan21_t2v_14b", "official")],
        "dicache": [setting("wan21")],
    },
    "wan2.1-i2v-480p": {"seacache": [setting("wan21_i2v_480p")]},
    "wan2.1-i2v-720p": {"seacache": [setting("wan21_i2v_720p")]},
    "flux.1-dev": {
        "seacache": [setting("flux1_dev")],
        "dicache": [setting("flux1_dev"), setting("flux1_dev_delta_minus", "delta-minus")],
    },
    "hunyuan-video-720p": {"seacache": [setting("hunyuan_video_720p")]},
    "hunyuan-video-544p": {"dicache": [setting("hunyuan_video_544p")]},
    "qwen-image": {
        "meancache": [setting("qwen_image")],
        "dbcache": [
            setting("cache_dit_default"),
            setting("vllm_omni_qwen_image", "vllm-omni"),
            setting("nunchaku_qwen_image", "nunchaku"),
            setting("cache_dit_qwen_lightning_4", "lightning-4"),
        ],
        "schedule": [setting(f"lemica_qwen_image_{pace}", f"lemica-{pace}") for pace in ("slow", "medium", "fast")],
    },
    "qwen-image-2512": {"meancache": [setting("qwen_image_2512")]},
    "qwen-image-edit": {"dbcache": [setting("vllm_omni_qwen_image")]},
    "z-image": {"meancache": [setting("z_image")], "dbcache": [setting("cache_dit_default")]},
    "z-image-turbo": {
        "dbcache": [setting("cache_dit_z_image_turbo")],
        "schedule": [
            *(setting(f"lemica_z_image_turbo_{pace}", f"lemica-{pace}") for pace in ("slow", "medium", "fast")),
            *(
                setting(f"cache_dit_z_image_turbo_{pace}", f"cache-dit-{pace}")
                for pace in ("slow", "medium", "fast", "ultra")
            ),
        ],
    },
}


# ---------------------------------------------------------------- TOML
def value(v):
    if isinstance(v, (list, tuple)):
        items = [value(item) for item in v]
        line = f"[{', '.join(items)}]"
        if len(line) <= 90:
            return line
        if isinstance(v[0], str):
            body = "".join(f"    {item},\n" for item in items)
        else:
            body = textwrap.fill(", ".join(items), 96, initial_indent="    ", subsequent_indent="    ") + ",\n"
        return f"[\n{body}]"
    return json.dumps(v, ensure_ascii=False) if isinstance(v, (str, bool)) else repr(v)


def table(header, entries):
    """A table without its empty keys."""
    lines = [f"{key} = {value(v)}" for key, v in entries.items() if v is not None and v != []]
    return "\n".join([header, *lines]) + "\n"


# ---------------------------------------------------------------- published numbers
def source(id, facts, notes=()):
    origin = facts["source"]
    line = f":{origin['line']}" if origin["line"] else ""
    return {
        "id": id,
        "repository": origin["repo"],
        "commit": origin["commit"],
        "file": origin["path"] + line,
        "notes": [*facts.get("notes", []), *notes],
    }


def recommended(facts):
    """Settings: the mildest first, which is the default; a setting for another project's rule comes last."""

    def order(p):
        return "diffusers" in p["label"], p["threshold"], p["K"], -p["retention_ratio"]

    for p in sorted(facts["recommended"], key=order):
        other = p["steps"] not in (None, facts["steps"])
        label = p["label"] + (f", {p['steps']} steps" if other else "")
        yield {
            "label": label,
            "threshold": float(p["threshold"]),
            "max_skips": p["K"],
            "warmup": float(p["retention_ratio"]),
        }


def published_curve(spec, constants):
    facts = [constants["magcache"]["curves"][id] for id in spec["ids"]]
    first, ratios, notes = facts[0], {}, []
    if first["layout"] == "cond_uncond_interleaved":
        ratios = {"cond": first["ratios"][0::2], "uncond": first["ratios"][1::2]}
    else:
        ratios = {branch: f["ratios"] for branch, f in zip(spec["branches"], facts)}
        notes = [f"{branch}: {id}" for branch, id in zip(spec["branches"], spec["ids"])][1:]
    out = table(
        "[[curve]]",
        {
            "variant": spec["variant"],
            "steps": first["steps"],
            "dialect": spec["dialect"],
            "flow_shift": spec.get("flow_shift"),
            "boundary_ratio": spec.get("boundary_ratio"),
        },
    )
    out += "\n" + table("[curve.ratios]", {b: [float(v) for v in values] for b, values in ratios.items()})
    for setting in recommended(first):
        out += "\n" + table("[[curve.recommended]]", setting)
    return out + "\n" + table("[curve.source]", source(spec["ids"][0], first, notes))


def published_fit(spec, constants):
    facts = constants["teacache"]["models"][spec["id"]]
    published = facts["recommended_thresholds"]
    thresholds = list(published.values()) if isinstance(published, dict) else published
    notes = [f"signal: {facts['modulated_input']}", f"rule: {facts['compute_rule']}", f"branches: {facts['branches']}"]
    if isinstance(published, dict) and len(published) > 1:
        notes.append("thresholds by published speed-up: " + ", ".join(f"{k} {v}" for k, v in published.items()))
    if spec["key"] != "coefficients":
        notes.append("the commented alternative of the same file")
    out = table(
        "[[fit]]",
        {
            "variant": spec["variant"],
            "signal": spec["signal"],
            "coefficients": [float(c) for c in facts[spec["key"]]],
            "warmup": spec["edge"][0],
            "last_steps": spec["edge"][1],
            "thresholds": [float(t) for t in thresholds],
        },
    )
    return out + "\n" + table("[fit.source]", source(spec["id"], facts, notes))


def published_setting(strategy, spec, constants):
    facts = constants["settings"][strategy][spec["id"]]
    keys = {key: value for key, value in facts.items() if key not in ("source", "notes")}
    out = table(f"[[part.{strategy}]]", {"variant": spec["variant"], **keys})
    return out + "\n" + table(f"[part.{strategy}.source]", source(spec["id"], facts))


# ---------------------------------------------------------------- measured on the small model
SIGNALS = {
    "e": ("timestep-embedding", "plain", None),
    "e0": ("timestep-projection", "ret-steps", "ret-steps"),
    "modulated": ("modulated-input", "plain", None),
}


# Tolerances of SenCache for the small model, for the first part of a run and for the rest.
SENCACHE_THRESHOLDS = [0.1, 0.35]


SAMPLERS = {"UniPCMultistepScheduler": "unipc", "FlowMatchEulerDiscreteScheduler": "euler"}


def network_sha256(folder):
    """How `magcache calibrate` identifies a checkpoint: a hash over the tensors of the network, in order of their names."""
    digest = hashlib.sha256()
    for name, (dtype, shape, values) in sorted(tensors(folder).items()):
        digest.update(f"{name} {dtype} {shape}\n".encode())
        digest.update(values)
    return digest.hexdigest()


def tensors(folder):
    """Number format, shape and bytes of every tensor of a network."""
    [file] = [*folder.glob("*.safetensors"), *folder.glob("*.gguf")]
    if file.suffix == ".gguf":
        reader, found = GGUFReader(file), {}
        for t in reader.tensors:
            stated = reader.get_field(f"comfy.gguf.orig_shape.{t.name}")
            shape = stated.contents() if stated else t.shape.tolist()[::-1]
            found[t.name] = t.tensor_type.name, shape, t.data.tobytes()
        return found
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, values = json.loads(data[8 : 8 + length]), data[8 + length :]
    header.pop("__metadata__", None)
    return {name: (t["dtype"], t["shape"], values[slice(*t["data_offsets"])]) for name, t in header.items()}


def measured(report, script):
    """The conditions under the names that `magcache calibrate` writes, so that a run can be compared with them."""
    folder, boundary = MODELS / "tiny" / report["model"], report.get("boundary_ratio")
    networks = [folder / part for part in ("transformer", "transformer_2") if (folder / part).exists()]
    keys = ("steps", "flow_shift", "boundary_ratio", "guidance", "guidance_2", "width", "height", "frames", "image")
    facts = {
        **report,
        "guidance": report["guidance_scale"],
        "guidance_2": report["guidance_scale"] if boundary else None,
        "image": "i2v" in report["model"],
    }
    return {
        "command": f"python tests/reference/{script}",
        "checkpoint": " ".join(network_sha256(network) for network in networks),
        "weights": "gguf Q8_0",  # how `eight_bits.py` stores them
        "sampler": SAMPLERS[report["scheduler"]],
        **{key: facts[key] for key in keys if facts.get(key) is not None},
        "prompts": report["prompts"],
        "seeds": report["seeds"],
        **report["versions"],
    }


def measured_profile(report):
    """The curve, and for each signal the fit to the hidden states after the blocks, as TeaCache fits it."""
    branches, provenance = report["magcache"], measured(report, f"calibrate_tiny.py {report['model']}")
    boundary = {"boundary_ratio": report["boundary_ratio"]} if report.get("boundary_ratio") else {}
    shift = {"flow_shift": report["flow_shift"]} if report["flow_shift"] else {}
    out = table("[[curve]]", {"steps": report["steps"], **shift, **boundary})
    for key, name in (("ratios", "norm_ratio"), ("std", "norm_std"), ("cosine_distance", "cos_dis")):
        out += "\n" + table(f"[curve.{key}]", {branch: values[name] for branch, values in branches.items()})
    setting = {"label": "mild", "threshold": 0.12, "max_skips": 2, "warmup": 0.2}
    out += "\n" + table("[[curve.recommended]]", setting)
    out += "\n" + table("[[curve.recommended]]", {**setting, "label": "fast", "threshold": 0.24, "max_skips": 4})
    out += "\n" + table("[curve.source.measured]", provenance)
    for found in report["teacache"]["fits"]:
        if found["output"] != "hidden_states":
            continue
        signal, edge, variant = SIGNALS[found["signal"]]
        out += "\n" + table(
            "[[fit]]",
            {
                "variant": variant,
                "signal": signal,
                "coefficients": found["coefficients"],
                "warmup": WAN_STEPS[edge][0],
                "last_steps": WAN_STEPS[edge][1],
                "thresholds": [0.08, 0.1, 0.15],
                "fitted_range": found["range"],
                "residual": found["rms_residual"],
            },
        )
        out += "\n" + table("[fit.source.measured]", {**provenance, "rows": found["rows"]})
    return out


def measured_sensitivity(report):
    values = {key: report[key] for key in ("timesteps", "latent", "timestep")}
    out = table("[[sensitivity]]", {**values, "thresholds": SENCACHE_THRESHOLDS})
    return out + "\n" + table("[sensitivity.source.measured]", measured(report, "sensitivity_tiny.py"))


# Profiles of models that this project registers; the others are for people who bring their own.
REGISTERED = {
    "wan2.1-t2v-1.3b": "wan2.1-t2v",
    "wan2.1-t2v-14b": "wan2.1-t2v-14b",
    "wan2.1-i2v-480p": "wan2.1-i2v-14b",
    "wan2.1-i2v-720p": "wan2.1-i2v-14b",
    "wan2.2-t2v-a14b": "wan2.2-t2v-a14b",
    "wan2.2-i2v-a14b": "wan2.2-i2v-a14b",
    "wan2.2-ti2v-5b": "wan2.2-ti2v-5b",
    "flux.1-dev": "flux.1-dev",
    "flux.1-kontext-dev": "flux.1-dev",
    "flux.2": "flux.2-dev",
    "flux.2-klein": "flux.2-klein",
    "z-image": "z-image",
    "z-image-turbo": "z-image-turbo",
    "qwen-image": "qwen-image",
    "qwen-image-2512": "qwen-image",
    "qwen-image-edit": "qwen-image-edit",
    **{name: name for name in EMBEDDED},
}


def head(comment, name, summary):
    model = {"model": REGISTERED[name]} if name in REGISTERED else {}
    return table(comment, {"name": name, **model, "summary": summary})


def documents():
    constants = json.loads((HERE / "constants.json").read_text())
    unused = constants["magcache"]["curves"].keys() | constants["teacache"]["models"].keys()
    unused |= {(strategy, id) for strategy, all in constants["settings"].items() for id in all}
    for name, (summary, curves, fits) in PROFILES.items():
        header = "# Made by tests/reference/make_profiles.py from published numbers."
        parts = [head(header, name, summary)]
        parts += [published_curve(spec, constants) for spec in curves]
        parts += [published_fit(spec, constants) for spec in fits]
        unused -= {id for spec in curves for id in spec["ids"]} | {spec["id"] for spec in fits}
        for strategy, settings in SETTINGS.get(name, {}).items():
            parts += [published_setting(strategy, spec, constants) for spec in settings]
            unused -= {(strategy, spec["id"]) for spec in settings}
        yield name, "\n".join(parts)
    if unused:
        raise SystemExit(f"no profile has {sorted(unused)}")
    comment = "# Made by tests/reference/make_profiles.py from what calibrate_tiny.py and sensitivity_tiny.py measured."
    for name, summary in EMBEDDED.items():
        calibration, sensitivity = (MODELS / "tiny" / f"{name}.{kind}.json" for kind in ("calibration", "sensitivity"))
        parts = [head(comment, name, summary), measured_profile(json.loads(calibration.read_text()))]
        if sensitivity.exists():
            parts.append(measured_sensitivity(json.loads(sensitivity.read_text())))
        # Planned schedules come from the program (`calibrate` and `pareto --save`) and were inserted by hand.
        written = MODELS / "data" / f"{name}.toml"
        _, marker, plans = written.read_text().partition("[[plan]]") if written.exists() else ("", "", "")
        if marker:
            parts.append(marker + plans)
        yield name, "\n".join(parts)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with what is there, write nothing")
    args = parser.parse_args()
    folder, wanted = MODELS / "data", {f"{name}.toml": text for name, text in documents()}
    if not args.check:
        for name, text in wanted.items():
            (folder / name).write_text(text)
        return
    there = {path.name: path.read_text() for path in folder.glob("*.toml") if path.name not in BY_CALIBRATE}
    differing = sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))
    for name in differing:
        print(f"{name}: differs from what this script makes", file=sys.stderr)
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()

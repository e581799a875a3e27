"""Calibrate MagCache and TeaCache on the small models with diffusers, for comparison with ours.

    python tests/reference/calibrate_tiny.py [wan2.1-t2v-tiny | wan2.2-t2v-tiny | wan2.2-i2v-tiny | tiny-flux]

Dense sampling (the folder's solver and shift; guidance 3 for videos, 3.5 embedded for images) of several prompts and seeds.
Per branch and step:

* residual = output of the block stack - its input, [tokens, channels], only of the image tokens if there are others;
* ``norm_ratio`` = mean over tokens of |residual_t|_2 / |residual_{t-1}|_2, ``norm_std`` its sample deviation and
  ``cos_dis`` = mean of 1 - cos(residual_t, residual_{t-1}); 1, 0, 0 at the first step, which has no predecessor;
* distances between consecutive steps, mean|x_t - x_{t-1}| / mean|x_{t-1}|, of the time embedding (``e``), its
  projection (``e0``) or, for images, block 0's modulated input (``modulated``) instead of both, and of the residual
  and the hidden states after the blocks; least squares of degree 4 from each signal to each output, coefficients
  with the highest power first.

Tokens of all prompts and seeds are pooled. With two experts one curve spans the whole run; the first step of each
has no predecessor, and pairs of steps across the boundary are excluded from the fits.
"""

import argparse
import inspect
import json
import sys
from contextlib import contextmanager
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers

TINY = Path(__file__).resolve().parents[2] / "magcache-models" / "tiny"
sys.path.insert(0, str(TINY / "train" / "world"))
from published import first_frame, load_pipeline  # noqa: E402

# docs/results/prompts-calibration-video.txt
PROMPTS = [
    "a red circle moving right at night",
    "a blue striped square moving down on sand",
    "a white ball moving up in fog",
    "a green checked triangle moving left at dusk panning right",
    "a yellow star spinning and a purple ring moving up at night",
    "a cyan speckled circle moving down and a red square moving right on sand",
]
# docs/results/prompts-calibration-image.txt
PICTURES = [
    "a red circle at night",
    "a blue striped square on sand",
    "a white ball in fog",
    "a green checked triangle at dusk",
    "a yellow star and a purple ring at night",
    "a cyan speckled circle and a red square on sand",
]
SEEDS = [0, 1]
GUIDANCE, EMBEDDED_GUIDANCE = 3.0, 3.5
STEPS = {"wan2.1-t2v-tiny": 30, "wan2.2-t2v-tiny": 40, "wan2.2-i2v-tiny": 30, "tiny-flux": 28}
SIZE, FRAMES, MAX_LENGTH = 128, 17, 20
SIGNALS, STILL_SIGNALS, OUTPUTS = ("e", "e0"), ("modulated",), ("residual", "hidden_states")
DEGREE = 4


class Recorder:
    """Per branch, the outputs of the time embedder and the block stack at each step of the current run, and its expert."""

    def __init__(self, transformers):
        self.steps = {}
        self.branch = None
        for expert, transformer in enumerate(transformers):
            self.watch(expert, transformer)

    def watch(self, expert, transformer):
        enter = transformer.cache_context

        @contextmanager
        def told(name, **step):
            self.branch, self.expert = name, expert
            with enter(name, **step):
                yield

        transformer.cache_context = told
        if hasattr(transformer, "single_transformer_blocks"):
            transformer.transformer_blocks[0].norm1.register_forward_hook(self.on_modulated_input)
            transformer.x_embedder.register_forward_hook(self.on_embedded)
            transformer.single_transformer_blocks[-1].register_forward_hook(self.on_joint_output)
            return
        transformer.condition_embedder.register_forward_hook(self.on_time_embedding)
        transformer.blocks[0].register_forward_pre_hook(self.on_stack_input)
        transformer.blocks[-1].register_forward_hook(self.on_stack_output)

    def on_time_embedding(self, _module, _inputs, outputs):
        self.current = {"e": outputs[0], "e0": outputs[1]}

    def on_embedded(self, _module, _inputs, output):
        self.current = {"input": output}

    def on_modulated_input(self, _module, _inputs, outputs):
        self.current["modulated"] = outputs[0]

    def on_joint_output(self, module, inputs, output):
        self.on_stack_output(module, inputs, output[1])

    def on_stack_input(self, _module, inputs):
        self.current["input"] = inputs[0]

    def on_stack_output(self, _module, _inputs, output):
        values = self.current
        values["hidden_states"] = output
        values["residual"] = output - values.pop("input")
        self.steps.setdefault(self.branch, []).append(
            {"expert": self.expert, **{name: value[0] for name, value in values.items()}}
        )

    def take(self):
        steps, self.steps = self.steps, {}
        return steps


def magnitudes(now, before):
    """Per token: ratio of the residuals' norms and their cosine distance."""
    ratio = now.norm(dim=-1) / before.norm(dim=-1)
    return ratio, 1 - torch.nn.functional.cosine_similarity(now, before, dim=-1)


def relative_l1(now, before):
    return ((now - before).abs().mean() / before.abs().mean()).item()


def pooled_curve(runs):
    """MagCache's curve of one branch from the residuals of all runs, each a list over steps."""
    curve = {"norm_ratio": [1.0], "norm_std": [0.0], "cos_dis": [0.0]}
    for step in range(1, len(runs[0])):
        if runs[0][step]["expert"] != runs[0][step - 1]["expert"]:
            for values, first in zip(curve.values(), (1.0, 0.0, 0.0)):
                values.append(first)
            continue
        pairs = [magnitudes(run[step]["residual"], run[step - 1]["residual"]) for run in runs]
        ratio, distance = (torch.cat(values) for values in zip(*pairs))
        curve["norm_ratio"].append(ratio.mean().item())
        curve["norm_std"].append(ratio.std().item())
        curve["cos_dis"].append(distance.mean().item())
    return curve


def distance_rows(runs, branch):
    """One row for each pair of consecutive steps of each run."""
    rows = []
    for run, steps in enumerate(runs):
        for step in range(1, len(steps)):
            now, before = steps[step], steps[step - 1]
            if now["expert"] != before["expert"]:
                continue
            names = [name for name in SIGNALS + STILL_SIGNALS + OUTPUTS if name in now]
            distances = {name: relative_l1(now[name], before[name]) for name in names}
            rows.append({"run": run, "branch": branch, "step": step, **distances})
    return rows


def polynomial(rows, signal, output):
    """Least squares from ``signal`` to ``output`` distances, in double precision."""
    x, y = (np.array([row[name] for row in rows], np.float64) for name in (signal, output))
    coefficients = np.polyfit(x, y, DEGREE)
    error = np.polyval(coefficients, x) - y
    return {
        "signal": signal,
        "output": output,
        "coefficients": coefficients.tolist(),
        "range": [x.min(), x.max()],
        "rms_residual": float(np.sqrt(np.mean(error**2))),
        "rows": len(rows),
    }


def rounded(value):
    """Rounds every number in nested lists and dictionaries to nine digits; fits keep all digits."""
    if isinstance(value, dict):
        return {key: part if key == "fits" else rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value


def is_still(pipeline):
    return isinstance(pipeline, diffusers.FluxPipeline)


@torch.no_grad()
def sample_all(pipeline, steps):
    """Runs of every prompt and seed: per branch, a list over runs of lists over steps."""
    experts = [pipeline.transformer, getattr(pipeline, "transformer_2", None)]
    recorder, branches = Recorder([t for t in experts if t is not None]), {}
    takes_image = "image" in inspect.signature(pipeline.__call__).parameters
    for prompt in PICTURES if is_still(pipeline) else PROMPTS:
        for seed in SEEDS:
            if is_still(pipeline):
                pipeline(
                    prompt=prompt, height=SIZE, width=SIZE, num_inference_steps=steps,
                    guidance_scale=EMBEDDED_GUIDANCE, max_sequence_length=MAX_LENGTH, output_type="latent",
                    generator=torch.Generator().manual_seed(seed),
                )
                for branch, seen in recorder.take().items():
                    branches.setdefault(branch, []).append(seen)
                continue
            image = {"image": first_frame(prompt, seed)} if takes_image else {}
            pipeline(
                prompt=prompt, negative_prompt="", height=SIZE, width=SIZE, num_frames=FRAMES, num_inference_steps=steps,
                guidance_scale=GUIDANCE, max_sequence_length=MAX_LENGTH, output_type="latent",
                generator=torch.Generator().manual_seed(seed), **image,
            )
            for branch, seen in recorder.take().items():
                branches.setdefault(branch, []).append(seen)
    return branches


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="wan2.1-t2v-tiny", choices=STEPS)
    args = parser.parse_args()
    pipeline, steps = load_pipeline(args.model), STEPS[args.model]
    branches = sample_all(pipeline, steps)
    rows = [row for branch, runs in branches.items() for row in distance_rows(runs, branch)]
    report = {
        "model": args.model,
        "scheduler": type(pipeline.scheduler).__name__,
        "steps": steps,
        "flow_shift": pipeline.scheduler.config.get("flow_shift"),
        "boundary_ratio": pipeline.config.get("boundary_ratio"),
        "guidance_scale": EMBEDDED_GUIDANCE if is_still(pipeline) else GUIDANCE,
        "height": SIZE,
        "width": SIZE,
        "frames": 1 if is_still(pipeline) else FRAMES,
        "prompts": PICTURES if is_still(pipeline) else PROMPTS,
        "seeds": SEEDS,
        "versions": {
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
        },
        "magcache": {branch: pooled_curve(runs) for branch, runs in branches.items()},
        "teacache": {
            "fits": [polynomial(rows, signal, output) for signal in SIGNALS + STILL_SIGNALS if signal in rows[0] for output in OUTPUTS],
            "columns": list(rows[0]),
            "rows": [list(row.values()) for row in rows],
        },
    }
    # The measurements have only single precision.
    text = json.dumps(rounded(report), separators=(",", ":"))
    (TINY / f"{args.model}.calibration.json").write_text(text + "\n")


if __name__ == "__main__":
    main()

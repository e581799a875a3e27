"""Measure SenCache's sensitivities on the small text-to-video model with diffusers.

    python tests/reference/sensitivity_tiny.py

At the states (x_i, t_i) of dense runs (the prompts, seeds and settings of `calibrate_tiny.py`), for the conditional
branch f, with the next state of the same run:

* ``latent`` = |f(x_{i+1}, t_i) - f(x_i, t_i)| / |x_{i+1} - x_i|, L2 norms over all elements: dimensionless;
* ``timestep`` = rms(f(x_i, t_{i+1}) - f(x_i, t_i)) / |t_{i+1} - t_i|: per training step, with t = 0 after the last one.

These are the finite differences of vita-epfl/SenCache (Wan2.1/sensitivity_calculation.py, commit 4bf419b) with two
differences: the states are those of a sampled run instead of noised videos, so no data set is needed, and the second
is divided by sqrt(elements), so that it does not depend on the size of the latents.
"""

import argparse
import json
from pathlib import Path

import calibrate_tiny as dense
import diffusers
import torch
import transformers

MODEL = "wan2.1-t2v-tiny"


def conditional_calls(pipeline, prompt, seed):
    """The keyword arguments of every conditional forward in a dense run, and the latents after the last step."""
    calls, branch = [], [None]
    enter = pipeline.transformer.cache_context

    def told(name, **step):
        branch[0] = name
        return enter(name, **step)

    def record(_, args, kwargs):
        if branch[0] == "cond":
            calls.append(kwargs)

    pipeline.transformer.cache_context = told
    handle = pipeline.transformer.register_forward_pre_hook(record, with_kwargs=True)
    latents = pipeline(
        prompt, negative_prompt="", height=dense.SIZE, width=dense.SIZE, num_frames=dense.FRAMES,
        num_inference_steps=dense.STEPS[MODEL], guidance_scale=dense.GUIDANCE, max_sequence_length=dense.MAX_LENGTH,
        output_type="latent", generator=torch.Generator().manual_seed(seed),
    ).frames
    handle.remove()
    pipeline.transformer.cache_context = enter
    return calls, latents


def sensitivities(transformer, calls, last):
    """One (t, latent, timestep) for every step of a run."""
    def f(call, **other):
        return transformer(**{**call, "return_dict": False, **other})[0]

    rows = []
    for i, call in enumerate(calls):
        x, t = call["hidden_states"], call["timestep"]
        x_next = calls[i + 1]["hidden_states"] if i + 1 < len(calls) else last
        t_next = calls[i + 1]["timestep"] if i + 1 < len(calls) else torch.zeros_like(t)
        here = f(call)
        moved, later = f(call, hidden_states=x_next.to(x.dtype)), f(call, timestep=t_next)
        latent = (moved - here).norm() / (x_next - x).norm()
        per_step = (later - here).pow(2).mean().sqrt() / (t_next - t).abs().max()
        rows.append((t.double().max().item(), latent.item(), per_step.item()))
    return rows


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=dense.TINY / f"{MODEL}.sensitivity.json")
    args = parser.parse_args()
    pipeline = dense.load_pipeline(MODEL)
    runs = [
        sensitivities(pipeline.transformer, *conditional_calls(pipeline, prompt, seed))
        for prompt in dense.PROMPTS
        for seed in dense.SEEDS
    ]
    means = torch.tensor(runs, dtype=torch.float64).mean(0)
    report = {
        "model": MODEL,
        "scheduler": "UniPCMultistepScheduler",
        "steps": dense.STEPS[MODEL],
        "flow_shift": pipeline.scheduler.config.flow_shift,
        "guidance_scale": dense.GUIDANCE,
        "height": dense.SIZE,
        "width": dense.SIZE,
        "frames": dense.FRAMES,
        "prompts": dense.PROMPTS,
        "seeds": dense.SEEDS,
        "versions": {
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
        },
        "timesteps": means[:, 0].tolist(),
        "latent": means[:, 1].tolist(),
        "timestep": means[:, 2].tolist(),
    }
    args.out.write_text(json.dumps(report, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()

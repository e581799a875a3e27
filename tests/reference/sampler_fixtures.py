"""Records scheduler runs that the shipped golden cases do not cover: DPM-Solver++ of orders 1 and 3 on short and long
schedules, UniPC of order 3 on few steps, Euler with shifts by resolution on its own spacing.

    python tests/reference/sampler_fixtures.py tests/fixtures/samplers

Needs torch and diffusers (0.42.1 recorded the files in the repository). One folder per case: case.json has the calls,
golden.safetensors holds latents0, noise, sigmas, timesteps and trajectory of each.
"""

import json
import sys
from pathlib import Path

import diffusers
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from safetensors.torch import save_file

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
KEYS = {"inputs": ["latents0", "noise"], "outputs": ["sigmas", "timesteps", "trajectory"]}

CASES = {
    "dpmpp_orders": [
        (DPMSolverMultistepScheduler, {**FLOW, "flow_shift": shift, "solver_order": order, "lower_order_final": lower}, n, None)
        for order, n, shift, lower in [
            (1, 5, 3.0, True), (3, 4, 5.0, True), (3, 9, 5.0, True), (3, 9, 5.0, False), (3, 20, 3.0, True),
            (2, 6, 8.0, False), (3, 1, 3.0, True), (3, 2, 3.0, True),
        ]
    ],
    "unipc_orders": [
        (UniPCMultistepScheduler, {**FLOW, "flow_shift": shift, "solver_order": order, "disable_corrector": off}, n, None)
        for order, n, shift, off in [(3, 3, 3.0, []), (3, 4, 12.0, []), (3, 25, 8.0, [0]), (1, 2, 1.0, [])]
    ],
    "euler_dynamic": [
        (FlowMatchEulerDiscreteScheduler, {"use_dynamic_shifting": True, "time_shift_type": kind}, n, mu)
        for kind, n, mu in [("exponential", 7, 0.8), ("linear", 7, 0.8), ("linear", 12, 2.5), ("exponential", 1, 1.15)]
    ],
}


def record(name, out):
    tensors, calls = {}, []
    for index, (cls, config, steps, mu) in enumerate(CASES[name]):
        key = f"c{index}"
        scheduler = cls(**config)
        scheduler.set_timesteps(steps, **({} if mu is None else {"mu": mu}))
        scheduler.set_begin_index(0)
        generator = torch.Generator().manual_seed(1000 + index)
        x = torch.randn(1, 3, 2, 2, generator=generator)
        noise = torch.randn(steps, *x.shape, generator=generator)
        trajectory = [x]
        for i, t in enumerate(scheduler.timesteps):
            output = 0.3 * x + torch.sin(t.float() / 100) + 0.1 * noise[i]
            x = scheduler.step(output, t, x, return_dict=False)[0]
            trajectory.append(x)
        values = {"latents0": trajectory[0], "noise": noise, "sigmas": scheduler.sigmas, "timesteps": scheduler.timesteps}
        tensors |= {f"{key}.{k}": v.contiguous() for k, v in values.items()}
        tensors[f"{key}.trajectory"] = torch.stack(trajectory)
        args = {"num_inference_steps": steps, "config": {"_class_name": cls.__name__, **config}}
        keys = {kind: {name: f"{key}.{name}" for name in names} for kind, names in KEYS.items()}
        calls.append({"name": key, "args": args | ({} if mu is None else {"mu": mu}), **keys})
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "golden.safetensors")
    versions = {"torch": torch.__version__, "diffusers": diffusers.__version__}
    text = json.dumps({"group": "schedulers", "case": name, "generator": Path(__file__).name, "versions": versions, "calls": calls}, indent=1)
    (folder / "case.json").write_text(text + "\n")


if __name__ == "__main__":
    for case in CASES:
        record(case, Path(sys.argv[1]))

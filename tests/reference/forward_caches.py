"""Runs of the published code of EasyCache, SenCache and FasterCache's CFG-Cache on a small network.

    python tests/reference/forward_caches.py EASYCACHE SENCACHE tests/fixtures/forward_caches

EASYCACHE is `EasyCache4Wan2.1/easycache_generate.py` of H-EmbodVis/EasyCache (commit 5127804), SENCACHE is
`Wan2.1/sencache.py` of vita-epfl/SenCache (commit 4bf419b); only the function that replaces the model's forward is
taken out of each and run, with a network of a few hundred numbers in place of Wan's parts. CFG-Cache is diffusers'
`FasterCacheDenoiserHook` (0.42.1 made the files in the repository).

Writes runs.safetensors and cases.json. `latents`, `cond`, `uncond`: [steps, channels, frames, height, width], the input of each step and the network's output if it runs. A case has the steps at which the network did not run, by branch, and
`<case>.cond`, `<case>.uncond`: what came out at those steps, in order (none for SenCache, whose script keeps another part of the
network than we do). At the other steps it is the network's prediction, which is checked.
"""

import ast
import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import diffusers
import numpy as np
import torch
from diffusers.hooks import HookRegistry
from diffusers.hooks.faster_cache import FasterCacheDenoiserHook
from safetensors.torch import save_file

STEPS = 30
SHAPE = (2, 2, 11, 15)
TEXT = {"cond": 0.8, "uncond": -0.3}


def function(path, name):
    """One function of a script, without running the rest of it."""
    tree = ast.parse(Path(path).read_text())
    [found] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    scope = {
        "torch": torch, "np": np, "logging": logging,
        "amp": SimpleNamespace(autocast=lambda **_: torch.autocast("cpu", enabled=False)),
        "sinusoidal_embedding_1d": lambda _, t: t.reshape(1, 1) / 1000,
    }
    exec(compile(ast.Module([found], []), str(path), "exec"), scope)
    return scope[name]


def network(x, t, text):
    """A prediction [channels, frames, height, width] that moves with latents, time and text."""
    x = x.double()
    mixed = 0.6 * x + 0.3 * x.roll(1, -1) - 0.2 * x.roll(1, -2)
    drift = torch.cos(torch.arange(x.numel()).reshape(x.shape) * 0.37 + 2.5 * t / 1000)
    return (torch.tanh(mixed + 0.4 * text) * (0.7 + 0.6 * t / 1000) + 0.3 * text * drift).float()


def timesteps(shift=3.0):
    sigma = torch.linspace(1, 0, STEPS + 1, dtype=torch.float64)[:-1]
    return (1000 * shift * sigma / (1 + (shift - 1) * sigma)).tolist()


def dense():
    """The states of an Euler run without a cache."""
    ts = timesteps()
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    latents, out = [], {"cond": [], "uncond": []}
    for i, t in enumerate(ts):
        latents.append(x)
        for branch, text in TEXT.items():
            out[branch].append(network(x, t, text))
        velocity = out["uncond"][i] + 2.0 * (out["cond"][i] - out["uncond"][i])
        after = ts[i + 1] if i + 1 < STEPS else 0.0
        x = x + velocity * (after - t) / 1000
    return {"latents": torch.stack(latents), **{b: torch.stack(v) for b, v in out.items()}}


class Wan:
    """Replaces Wan's parts so that the blocks together are `network`."""

    model_type, freq_dim, dim, text_len, cnt = "t2v", 1, 1, 1, 0

    def __init__(self, **state):
        self.freqs = torch.zeros(1)
        self.num_steps = 2 * STEPS
        self.ran = []
        self.blocks = [self.block]
        for key, value in state.items():
            setattr(self, key, value)

    def patch_embedding(self, x):
        return x

    patch_embedding.weight = SimpleNamespace(device=torch.device("cpu"))

    def time_embedding(self, e):
        return e

    def time_projection(self, e):
        return e.repeat(1, 6)

    def text_embedding(self, context):
        return context

    def block(self, x, e, context, **_):
        volume = x[0].transpose(0, 1).reshape(SHAPE)
        self.ran.append(len(self.ran))
        y = network(volume, self.t, context.flatten()[0].item())
        return y.flatten(1).transpose(0, 1).unsqueeze(0)

    def head(self, x, e):
        return x

    def unpatchify(self, x, _):
        return [x[0].transpose(0, 1).reshape(SHAPE)]


def wan_run(forward, run, **state):
    """The steps at which the network did not run, and the outputs."""
    model = Wan(**state)
    tokens = SHAPE[1] * SHAPE[2] * SHAPE[3]
    skipped, out = {b: [] for b in TEXT}, {b: [] for b in TEXT}
    for i, t in enumerate(timesteps()):
        for branch, text in TEXT.items():
            model.t, before = t, len(model.ran)
            context = [torch.full((1, 1), text)]
            y = forward(model, [run["latents"][i]], torch.tensor([t]), context, tokens)
            out[branch].append(y[0].float())
            if len(model.ran) == before:
                skipped[branch].append(i)
    return skipped, {b: torch.stack(v) for b, v in out.items()}


def easycache(forward, run, threshold, warmup):
    names = ["previous_raw_input_even", "previous_raw_output_even", "previous_raw_output_odd", "prev_prev_raw_input_even"]
    state = dict.fromkeys([*names, "cache_even", "k"])
    return wan_run(
        forward, run, thresh=threshold, ret_steps=2 * warmup, cutoff_steps=2 * STEPS - 2, accumulated_error_even=0,
        should_calc_current_pair=True, **state,
    )


def sencache(forward, run, table, threshold, early_threshold, max_skips):
    scale = float(np.sqrt(np.prod(SHAPE)))
    return wan_run(
        forward, run, J_z_norm=table["latent"], J_t_norm=[scale * v for v in table["timestep"]],
        sencache_timesteps_array=np.array(table["timesteps"]), sencache_threshold_start=scale * early_threshold,
        sencache_threshold_main=scale * threshold, sencache_K=max_skips, cached_z=None, cached_t=None,
        cached_residual_cond=None, cached_residual_uncond=None, cached_J_z_norm=None, cached_J_t_norm=None,
        accumulated_skips=0, skip_this_step=False, current_skip_count=0, all_skip_counts=[],
        threshold_switch_step=int(round(2 * STEPS * 0.2)), ret_steps=0, cutoff_steps=2 * STEPS,
    )


def cfg_cache(run, interval, start, low_until, high_from, alpha_low, alpha_high):
    """diffusers' hook, given the step as if it were a timestep that falls from 1000."""
    step = [0]
    now = lambda: 1000 - step[0]
    hook = FasterCacheDenoiserHook(
        unconditional_batch_skip_range=interval, unconditional_batch_timestep_skip_range=(-1, 1000 - start + 1),
        tensor_format="BCFHW", is_guidance_distilled=False, uncond_cond_input_kwargs_identifiers=["hidden_states"],
        current_timestep_callback=now,
        low_frequency_weight_callback=lambda _: alpha_low if step[0] < low_until else 1.0,
        high_frequency_weight_callback=lambda _: alpha_high if step[0] >= high_from else 1.0,
    )

    class Denoiser(torch.nn.Module):
        def forward(self, hidden_states):
            both = [run["uncond"][step[0]], run["cond"][step[0]]][-hidden_states.shape[0]:]
            self.rows = len(both)
            return torch.stack(both)

    denoiser = Denoiser()
    HookRegistry.check_if_exists_or_initialize(denoiser).register_hook(hook, "cfg-cache")
    skipped, out = {b: [] for b in TEXT}, {b: [] for b in TEXT}
    for step[0] in range(STEPS):
        uncond, cond = denoiser(hidden_states=torch.stack([run["latents"][step[0]]] * 2))
        if denoiser.rows == 1:
            skipped["uncond"].append(step[0])
        out["cond"].append(cond)
        out["uncond"].append(uncond)
    return skipped, {b: torch.stack(v) for b, v in out.items()}


@torch.no_grad()
def main(easycache_path, sencache_path, folder):
    run = dense()
    tensors, cases = {k: v.contiguous() for k, v in run.items()}, []

    def add(strategy, keys, result, outputs=True):
        skipped, out = result
        name = f"{strategy}_{sum(case['strategy'] == strategy for case in cases)}"
        cases.append({"name": name, "strategy": strategy, "keys": keys, "skipped": skipped})
        if outputs:
            for branch in (b for b in out if skipped[b]):
                ran = [i for i in range(STEPS) if i not in skipped[branch]]
                torch.testing.assert_close(out[branch][ran], run[branch][ran], rtol=0, atol=1e-6)
                tensors[f"{name}.{branch}"] = out[branch][skipped[branch]].contiguous()

    forward = function(easycache_path, "easycache_forward")
    for threshold, warmup in ((0.05, 6), (0.12, 3), (0.4, 10)):
        add("easycache", {"threshold": threshold, "warmup": warmup}, easycache(forward, run, threshold, warmup))
    forward = function(sencache_path, "sencache_forward")
    table = {
        "timesteps": [1000.0, 900.0, 750.0, 500.0, 250.0, 50.0],
        "latent": [1.3, 1.1, 0.9, 0.8, 0.9, 1.4],
        "timestep": [9e-4, 7e-4, 6e-4, 6e-4, 8e-4, 1e-3],
    }
    for threshold, early_threshold, max_skips in ((0.1, 0.04, 3), (0.3, 0.06, 2), (0.9, 0.0, 10)):
        keys = {"threshold": threshold, "early_threshold": early_threshold, "max_skips": max_skips}
        result = sencache(forward, run, table, threshold, early_threshold, max_skips)
        add("sencache", {**keys, "sensitivity": [table]}, result, outputs=False)
    for interval, start, low_until, high_from, alpha_low, alpha_high in (
        (5, 10, 24, 18, 1.1, 1.1), (3, 1, 12, 12, 1.2, 1.05), (7, 4, 30, 0, 1.0, 1.3),
    ):
        keys = {
            "interval": interval, "start": start, "low_until": low_until, "high_from": high_from,
            "alpha_low": alpha_low, "alpha_high": alpha_high,
        }
        add("cfg-cache", keys, cfg_cache(run, **keys))
    folder = Path(folder)
    save_file(tensors, folder / "runs.safetensors")
    report = {
        "timesteps": timesteps(), "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
        "cases": cases,
    }
    (folder / "cases.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

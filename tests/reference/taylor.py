"""Forecasts of diffusers' TaylorSeer on values computed at unequal distances.

    python tests/reference/taylor.py tests/fixtures/taylor

Runs `TaylorSeerState` of diffusers 0.42.1 (`hooks/taylorseer_cache.py`) as its hook does: the step is counted at every call,
computed steps update it, the others predict. Writes runs.safetensors: `values` [steps, tokens, channels], the module's
output at each step if it runs, and the output of each case; and cases.json: order, stored dtype and computed steps.
"""

import json
import sys
from pathlib import Path

import diffusers
import torch
from diffusers.hooks.taylorseer_cache import TaylorSeerState
from safetensors.torch import save_file

STEPS, TOKENS, CHANNELS = 20, 3, 4
COMPUTED = {
    "interval": [0, 1, 2, 4, 9, 14, 19],
    "gaps": [0, 1, 4, 5, 9, 11, 12, 18],
}


def values():
    i = torch.arange(TOKENS * CHANNELS, dtype=torch.float64).reshape(TOKENS, CHANNELS)
    t = torch.arange(STEPS, dtype=torch.float64)[:, None, None]
    return (torch.sin(0.21 * t + 0.7 * i) + 0.02 * t * (i - 5)).float()


def replay(y, computed, order, dtype):
    state = TaylorSeerState(taylor_factors_dtype=dtype, max_order=order)
    out = []
    for step in range(STEPS):
        state.current_step += 1
        if step in computed:
            state.update((y[step],))
            out.append(y[step])
        else:
            out.append(state.predict()[0])
    return torch.stack(out)


def main(folder):
    y = values()
    tensors, cases = {"values": y}, []
    for where, computed in COMPUTED.items():
        for order in (1, 2, 3):
            for dtype in (torch.float32, torch.bfloat16):
                stored = {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype]
                name = f"{where}_o{order}_{stored}"
                cases.append({"name": name, "order": order, "dtype": stored, "computed": computed})
                tensors[name] = replay(y, computed, order, dtype)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "runs.safetensors")
    report = {"diffusers": diffusers.__version__, "torch": torch.__version__, "cases": cases}
    (folder / "cases.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

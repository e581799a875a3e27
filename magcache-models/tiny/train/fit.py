"""The optimisation loop that every model here is trained with."""

import time
from pathlib import Path

import numpy as np
import torch


def add_loop_arguments(parser, steps, batch, lr):
    """Command line arguments of :func:`fit`; training ends at ``--steps`` or ``--minutes``, whichever is first."""
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="wall-clock limit")
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--lr", type=float, default=lr, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=1)


SAVE_EVERY = 100  # steps


def fit(model, loss_fn, args, ema_decay=0.0, report=lambda loss: f"loss {loss:.4f}", state=None):
    """Minimise ``loss_fn()`` over the trainable parameters of ``model`` and leave their moving average in it.

    AdamW without weight decay, gradient norm clipped at 1, linear warm-up over 100 steps, then a cosine down to 3% of
    ``args.lr``. ``ema_decay`` 0 keeps the last weights. The loss printed is a moving average. ``state`` is a file that the
    training is saved to every SAVE_EVERY steps, and that an interrupted one continues from.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=args.lr, betas=(0.9, 0.99), weight_decay=0.0)
    average = [p.detach().clone() for p in parameters]
    begin, smoothed, step, progress = time.time(), None, 0, 0.0
    if state and Path(state).exists():
        saved = torch.load(state)
        step, begin = saved["step"], begin - saved["elapsed"]
        optimiser.load_state_dict(saved["optimiser"])
        with torch.no_grad():
            torch._foreach_copy_(parameters, saved["parameters"])
            torch._foreach_copy_(average, saved["average"])
    while progress < 1:
        elapsed = time.time() - begin
        progress = max((step + 1) / args.steps, elapsed / 60 / args.minutes)
        decay = float(0.97 * 0.5 * (1 + np.cos(np.pi * min(progress, 1))) + 0.03)
        for group in optimiser.param_groups:
            group["lr"] = args.lr * min(1, (step + 1) / 100) * decay
        loss = loss_fn()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step += 1
        # A young average forgets faster, so that it does not remember the initial weights.
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - min(ema_decay, step / (step + 9)))
        value = loss.item()
        smoothed = value if smoothed is None else 0.98 * smoothed + 0.02 * value
        if step % 50 == 0 or progress >= 1:
            print(f"step {step} {elapsed:.0f} s {report(smoothed)}", flush=True)
        if state and step % SAVE_EVERY == 0:
            kept = {"step": step, "elapsed": elapsed, "optimiser": optimiser.state_dict(), "average": average}
            torch.save(kept | {"parameters": [p.detach() for p in parameters]}, f"{state}.new")
            Path(f"{state}.new").replace(state)
    if ema_decay:
        with torch.no_grad():
            torch._foreach_copy_(parameters, average)


def noise_levels(batch, shift, device):
    """Noise levels [batch] in [0, 1], as dense as on a sampler's schedule with flow shift ``shift``."""
    u = torch.rand(batch, device=device)
    return shift * u / (1 + (shift - 1) * u)

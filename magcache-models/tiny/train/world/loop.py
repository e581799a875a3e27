"""The optimisation loop of all trainers. It can be killed at any time: the same command goes on where it was saved."""

import argparse
import csv
import time
from pathlib import Path

import numpy as np
import torch
from muon import Muon

SAVE_SECONDS = 120
LOG_EVERY = 20  # steps
own_attention = torch.nn.functional.scaled_dot_product_attention


def add_loop_arguments(parser, steps, batch, lr, ema, muon):
    """Arguments of :func:`fit`. ``--steps`` may be raised later: the cosine then ends at the new number."""
    parser.add_argument("--out", type=Path, required=True, help="folder of the state, of log.csv and of the model")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--warmup", type=int, default=100, help="steps")
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--lr", type=float, default=lr, help="peak learning rate")
    parser.add_argument(
        "--muon", action=argparse.BooleanOptionalAction, default=muon, help="for matrices and kernels of blocks"
    )
    parser.add_argument("--ema", type=float, default=ema, help="decay of the average of the weights")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--bf16", action="store_true", help="products in bfloat16: under half the time where the processor has AVX512-BF16"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def plain_attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, **others):
    """``scaled_dot_product_attention`` as two products: faster on a processor than torch's own for few hundred tokens."""
    if attn_mask is not None or is_causal or any(others.values()):
        return own_attention(query, key, value, attn_mask, dropout_p, is_causal, **others)
    return ((query * query.shape[-1] ** -0.5) @ key.mT).softmax(-1).to(value.dtype) @ value


def prepare(args):
    """Fixes threads, seeds and attention, makes the folder, and gives the generator that scenes are drawn with."""
    if args.device == "cpu":
        torch.nn.functional.scaled_dot_product_attention = plain_attention
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    return torch.Generator().manual_seed(args.seed)


def learning_rate(step, args):
    """Linear over ``args.warmup`` steps, then a cosine down to 2 % of ``args.lr``."""
    progress = min(1.0, step / args.steps)
    return args.lr * min(1.0, (step + 1) / args.warmup) * (0.51 + 0.49 * float(np.cos(np.pi * progress)))


def new_optimisers(models, args):
    """AdamW without weight decay.

    With ``args.muon`` Muon for the matrices and kernels of blocks, but not for those of modulation.
    """
    matrices, others = [], []
    for name, parameter in (named for model in models for named in model.named_parameters()):
        if parameter.requires_grad:
            is_matrix = parameter.dim() > 1 and len(parameter) > 1 and "block" in name and "norm" not in name
            (matrices if args.muon and is_matrix else others).append(parameter)
    adam = torch.optim.AdamW(others, lr=args.lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    return [adam, Muon(matrices, args.lr)] if matrices else [adam]


def fit(models, loss_fn, args, generator, save_models):
    """Minimise what ``loss_fn()`` returns, a loss and a dict of numbers for the log, over all trainable weights.

    Gradient norm clipped at 1. ``save_models()`` finds the averaged weights in the models.
    """
    parameters = [p for model in models for p in model.parameters() if p.requires_grad]
    optimisers = new_optimisers(models, args)
    average = [p.detach().clone() for p in parameters]
    state, step, seconds = args.out / "state.pt", 0, 0.0
    if state.exists():
        kept = torch.load(state, weights_only=True, map_location=args.device)
        step, seconds = kept["step"], kept["seconds"]
        for optimiser, state_dict in zip(optimisers, kept["optimisers"], strict=True):
            optimiser.load_state_dict(state_dict)
        with torch.no_grad():
            torch._foreach_copy_(parameters, kept["parameters"])
            torch._foreach_copy_(average, kept["average"])
        torch.set_rng_state(kept["random"].cpu())
        generator.set_state(kept["scenes"].cpu())
    log = Log(args.out / "log.csv", step)

    def save():
        kept = {
            "step": step, "seconds": seconds, "optimisers": [each.state_dict() for each in optimisers],
            "average": average, "parameters": [p.detach() for p in parameters], "random": torch.get_rng_state(),
            "scenes": generator.get_state(),
        }  # fmt: skip
        log.flush()
        torch.save(kept, state.with_suffix(".new"))
        state.with_suffix(".new").replace(state)
        now = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            torch._foreach_copy_(parameters, average)
            save_models()
            torch._foreach_copy_(parameters, now)

    saved = time.time()
    while step < args.steps:
        begin = time.process_time()
        rate = learning_rate(step, args)
        with torch.autocast(args.device, torch.bfloat16, enabled=args.bf16):
            loss, numbers = loss_fn()
        for parameter in parameters:
            parameter.grad = None
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
        step += 1
        # A young average forgets faster, so that it does not remember the initial weights.
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - min(args.ema, step / (step + 9)))
        seconds += time.process_time() - begin
        log.add(step, seconds, rate, {"loss": loss.item(), **numbers})
        if time.time() - saved > SAVE_SECONDS:
            save()
            saved = time.time()
    save()


class Log:
    """Means over LOG_EVERY steps as rows of a CSV file; seconds are of the processor."""

    def __init__(self, path, step):
        rows = list(csv.reader(path.open())) if path.exists() else []
        # Rows after the saved step belong to work that was lost.
        self.rows = rows[:1] + [row for row in rows[1:] if int(row[0]) <= step]
        self.path, self.sums, self.count = path, {}, 0

    def add(self, step, seconds, rate, numbers):
        for name, value in numbers.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
        self.count += 1
        if step % LOG_EVERY:
            return
        means = {name: total / self.count for name, total in self.sums.items()}
        if not self.rows:
            self.rows.append(["step", "seconds", "lr", *means])
        self.rows.append([step, f"{seconds:.0f}", f"{rate:.2e}", *(f"{value:.5g}" for value in means.values())])
        print(f"step {step}, {seconds:.0f} s, " + ", ".join(f"{k} {v:.4g}" for k, v in means.items()), flush=True)
        self.sums, self.count = {}, 0
        self.flush()

    def flush(self):
        with self.path.with_suffix(".new").open("w", newline="") as file:
            csv.writer(file).writerows(self.rows)
        self.path.with_suffix(".new").replace(self.path)


def noise_levels(batch, shift, low=0.0, high=1.0):
    """Noise levels [batch] in [low, high]: logit-normal, moved to stronger noise by flow shift ``shift``."""

    def part_below(sigma):
        u = torch.tensor(sigma / (shift - (shift - 1) * sigma), dtype=torch.float64)
        return torch.special.ndtr(torch.logit(u))

    begin, end = part_below(low), part_below(high)
    part = begin + (end - begin) * torch.rand(batch, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
    u = torch.sigmoid(torch.special.ndtri(part))
    return (shift * u / (1 + (shift - 1) * u)).float()

"""Distil `wan2.1-t2v-tiny` into a LoRA for 4 steps without guidance: `--lora builtin:4-step`.

    python tests/reference/train_lora.py teach --count 1024 --out work/teacher
    python tests/reference/train_lora.py fit --pool work/teacher --out work/lora --steps 2000
    python tests/reference/train_lora.py measure --lora work/lora/4-step.safetensors

The teacher is the published folder as it is run by default: UniPC, flow shift 3, guidance 3, an empty negative prompt;
20 steps in place of 30 while it teaches. The student starts from the same noise and makes
4 Euler steps without guidance, at the noise levels of FlowMatchEulerDiscreteScheduler, which are those of
`--sampler euler --steps 4 --flow-shift SHIFT`. It is trained through all of its steps: the loss is the mean over the
steps of |x - x_teacher|^2 / (1 - sigma)^2 at the noise level that the step reaches, the error of what is no noise in x,
and the last step counts LAST times. Prompts are drawn like those of the training videos (`world.py`), without those
that `measure` uses.

As shipped: `teach --count 256 --bf16`, then `fit --steps 500 --bf16`, four minutes of one core with AVX512-BF16; the first 80 steps were in
32 bits and in a cosine of 1,000. Loss (mean of 20 steps): 0.41 at step 20, 0.31 at 60, 0.25 at 200, 0.18 at 340 and 0.16 at the end.
`measure`, 16 prompts with 2 noises each, against 30 steps with guidance (60 passes). The transformer was trained further after the
fit; before that the adapter had 24.39 dB and the row above it 21.69:

    4 steps, unipc, shift 3,  guidance 3   8 passes   23.88 +- 0.60 dB   latents 0.328
    4 steps, euler, shift 12, guidance 3   8 passes   23.65 +- 0.50 dB   latents 0.350
    4 steps, unipc, shift 3,  guidance 1   4 passes   21.40 +- 0.47 dB   latents 0.481
    4 steps, euler, shift 12, guidance 1   4 passes   21.74 +- 0.48 dB   latents 0.450
    the same with the LoRA                 4 passes   23.66 +- 0.55 dB   latents 0.320

The loss was still falling.
"""

import argparse
import math
import sys
from functools import cache
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

TINY = Path(__file__).resolve().parents[2] / "magcache-models" / "tiny"
sys.path.insert(0, str(TINY / "train" / "world"))
from loop import add_loop_arguments, fit, prepare  # noqa: E402
from published import load_pipeline  # noqa: E402
from text import MAX_LENGTH  # noqa: E402
from world import random_scenes  # noqa: E402

MODEL = "wan2.1-t2v-tiny"
FILE = "4-step.safetensors"
LATENT = (16, 5, 16, 16)  # channels, frames, height, width: 17 frames of 128 x 128
GUIDANCE, TEACHER_STEPS, TEACHING_STEPS = 3.0, 30, 20
STEPS, SHIFT, LAST = 4, 12.0, 4
RANK = 8
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2", "time_proj", "proj_out"]
CHUNK = 16  # trajectories in a file
TESTED, TEST_SEED = 16, 1 << 20


def frozen_pipeline():
    """The published pipeline in f32, its transformer frozen."""
    pipeline = load_pipeline(MODEL)
    pipeline.transformer.requires_grad_(False)
    return pipeline


def adapted(transformer):
    """The transformer with new factors beside the linear layers in TARGETS, of which only they are trained."""
    transformer.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS))
    return transformer


def encode(pipeline, prompts):
    """Features [batch, MAX_LENGTH, width], zero at the padding."""
    with torch.no_grad():
        return pipeline.encode_prompt(prompts, do_classifier_free_guidance=False, max_sequence_length=MAX_LENGTH)[0]


def teacher(pipeline, steps):
    """The folder's solver and its number of steps."""
    return UniPCMultistepScheduler.from_config(pipeline.scheduler.config), steps


def euler(shift):
    """The student's solver and its number of steps."""
    return FlowMatchEulerDiscreteScheduler(shift=shift), STEPS


def sample(pipeline, text, noise, solver, guidance=1.0):
    """The states [batch, ...] of a run: the noise, and the latents behind each step; and their noise levels."""
    scheduler, steps = solver
    scheduler.set_timesteps(steps)
    empty = encode(pipeline, [""]).expand_as(text)
    states = [noise]
    for t in scheduler.timesteps:
        x = states[-1]
        if guidance > 1:
            both = pipeline.transformer(
                torch.cat([x, x]), t.expand(2 * len(x)), torch.cat([text, empty]), return_dict=False
            )[0]
            velocity, other = both.float().chunk(2)
            velocity = other + guidance * (velocity - other)
        else:
            velocity = pipeline.transformer(x, t.expand(len(x)), text, return_dict=False)[0].float()
        states.append(scheduler.step(velocity, t, x, return_dict=False)[0])
    return states, scheduler.sigmas


@cache
def tested_prompts():
    """Prompts that no training run sees, half of them with two shapes."""
    one, two = [], []
    for prompt in random_scenes(256, torch.Generator().manual_seed(TEST_SEED)).prompts():
        group = two if " and " in prompt else one
        if prompt not in group and len(group) < TESTED // 2:
            group.append(prompt)
    return one + two


def teach(args):
    """Writes trajectories of the teacher, CHUNK in a file: text, noise levels, states [level, trajectory, ...]."""
    prepare(args)
    pipeline = frozen_pipeline()
    transformer = pipeline.transformer
    transformer.forward = torch.autocast(args.device, torch.bfloat16, enabled=args.bf16)(transformer.forward)
    for index in range(args.first, args.first + args.count // CHUNK):
        file = args.out / f"{index:04}.pt"
        if file.exists():
            continue
        generator = torch.Generator().manual_seed(index)
        prompts = random_scenes(2 * CHUNK, generator).prompts()
        prompts = [prompt for prompt in prompts if prompt not in tested_prompts()][:CHUNK]
        text = encode(pipeline, prompts)
        noise = torch.randn(len(prompts), *LATENT, generator=generator)
        with torch.no_grad():
            states, sigmas = sample(pipeline, text, noise, teacher(pipeline, TEACHING_STEPS), GUIDANCE)
        chunk = {"text": text, "sigmas": sigmas.clone(), "states": torch.stack(states).half()}
        torch.save(chunk, file.with_suffix(".new"))
        file.with_suffix(".new").replace(file)
        print(f"{file} {len(prompts)} trajectories", flush=True)


def states_at(chunk, rows, sigmas):
    """The teacher's states [level, row, ...] at these noise levels, on straight lines between the recorded ones."""
    known, found = chunk["sigmas"], []
    for sigma in sigmas:
        after = int((known > sigma).sum().clamp(1, len(known) - 1))
        part = ((known[after - 1] - sigma) / (known[after - 1] - known[after])).clamp(0, 1)
        found.append(torch.lerp(chunk["states"][after - 1, rows].float(), chunk["states"][after, rows].float(), part))
    return torch.stack(found)


def train(args):
    """Fits the factors on whole runs of the student."""
    generator = prepare(args)
    pipeline = frozen_pipeline()
    model = adapted(pipeline.transformer)
    if args.init:
        load_factors(model, args.init)
    chunk = cache(torch.load)

    def loss_fn():
        files = sorted(args.pool.glob("*.pt"))
        known = chunk(files[torch.randint(len(files), ())])
        rows = torch.randperm(len(known["text"]))[: args.batch]
        noise = known["states"][0, rows].float()
        states, sigmas = sample(pipeline, known["text"][rows], noise, euler(args.shift))
        errors = (torch.stack(states[1:]) - states_at(known, rows, sigmas[1:])).square().flatten(1).mean(1)
        errors = errors / (1 - sigmas[1:]).square()
        weights = torch.ones(STEPS)
        weights[-1] = LAST
        return (errors * weights).sum() / weights.sum(), {}

    fit([model], loss_fn, args, generator, lambda: save(model, args.out / FILE))


def load_factors(model, file):
    """Puts the factors of a file in place of the model's."""
    named = {name.removeprefix("transformer."): value.float() for name, value in load_file(file).items()}
    set_peft_model_state_dict(model, named)


def save(model, file):
    """Writes the factors in f16 under the names that diffusers gives them."""
    factors = get_peft_model_state_dict(model)
    save_file({f"transformer.{name}": value.half().contiguous() for name, value in factors.items()}, file)


@torch.no_grad()
def measure(args):
    """Prints the PSNR (dB, pixels in 0..1, one per video) and the latents' error against 30 steps of the teacher."""
    pipeline = frozen_pipeline()
    prompts = tested_prompts() * args.seeds
    text = encode(pipeline, prompts)
    noise = torch.randn(len(prompts), *LATENT, generator=torch.Generator().manual_seed(TEST_SEED + 1))
    mean, std = (torch.tensor(getattr(pipeline.vae.config, f"latents_{name}")).view(1, -1, 1, 1, 1) for name in ("mean", "std"))

    def run(solver, guidance=1.0):
        latents = sample(pipeline, text, noise, solver, guidance)[0][-1]
        return latents, pipeline.vae.decode(latents * std + mean, return_dict=False)[0].clamp(-1, 1) / 2 + 0.5

    truth = run(teacher(pipeline, TEACHER_STEPS), GUIDANCE)

    def told(name, found):
        error = [(a - b).square().flatten(1).mean(1) for a, b in zip(found, truth)]
        psnr = -10 * error[1].log10()
        spread = psnr.std().item() / math.sqrt(len(psnr))
        print(f"{name:<44} {psnr.mean():6.2f} +- {spread:.2f} dB, latents {error[0].mean():.4f}", flush=True)

    for guidance in (GUIDANCE, 1.0):
        told(f"4 steps, unipc, shift 3, guidance {guidance:g}", run(teacher(pipeline, STEPS), guidance))
        told(f"4 steps, euler, shift {args.shift:g}, guidance {guidance:g}", run(euler(args.shift), guidance))
    adapted(pipeline.transformer)
    for file in args.lora:
        load_factors(pipeline.transformer, file)
        told(f"the same with {Path(file).name}", run(euler(args.shift)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    part = parts.add_parser("teach")
    part.add_argument("--count", type=int, default=1024)
    part.add_argument("--first", type=int, default=0, help="the first file's number")
    part.add_argument("--out", type=Path, required=True, help="folder of the trajectories")
    part.add_argument("--threads", type=int, default=1)
    part.add_argument("--bf16", action="store_true", help="products of the teacher in bfloat16")
    part.set_defaults(run=teach, seed=0, device="cpu")
    part = parts.add_parser("fit")
    add_loop_arguments(part, steps=2000, batch=4, lr=3e-3, ema=0.995, muon=False)
    part.add_argument("--pool", type=Path, required=True, help="folder of the trajectories")
    part.add_argument("--shift", type=float, default=SHIFT)
    part.add_argument("--init", help="a LoRA to start from")
    part.set_defaults(run=train, device="cpu")
    part = parts.add_parser("measure")
    part.add_argument("--lora", nargs="+", required=True)
    part.add_argument("--shift", type=float, default=SHIFT)
    part.add_argument("--seeds", type=int, default=2, help="noises for each prompt")
    part.set_defaults(run=measure)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()

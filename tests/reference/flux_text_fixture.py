"""Records how transformers and diffusers process prompts for Flux: token ids, the chat of FLUX.2 klein, embeddings.

    python tests/reference/flux_text_fixture.py magcache-models/tiny/tiny-flux tests/fixtures/flux_text [QWEN3.jinja]

QWEN3.jinja is the chat template of Qwen3, as published with any of its checkpoints or with llama.cpp
(models/templates/Qwen-Qwen3-0.6B.jinja); without it the cases of the tokenizers stay as they are. Needs torch, diffusers (0.42.1), transformers (5.23.0) and tokenizers. Writes
  clip/            vocab.json, merges.txt and tokenizer_config.json laid out as those of FLUX.1, learned from WORDS
  qwen3/           a tokenizer with the special tokens of Qwen3 and one token per byte
  flux_prompts/    a case: FluxPipeline.encode_prompt of the small model
  flux_legacy_pooling/  a case: the same with the rule of old configurations for the pooled embeddings
and in `golden/tokenizers` beside it the cases `clip` and `qwen3`: CLIPTokenizer, and the template with that tokenizer, for PROMPTS.
"""

import json
import sys
from collections import Counter
from pathlib import Path

import recorded_cases
import torch
from diffusers import FluxPipeline
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextModel, CLIPTokenizer, PreTrainedTokenizerFast

WORDS = "a photo of the red circle and a blue square moving right, it's the cat's 1 photograph; caf\u00e9 squares moved".split()
PROMPTS = [
    "a photo of the red circle",
    "",
    " \t A  Photo\u00a0of\n the RED cat's   caf\u00e9s",
    "It's moving, it'll move! 123 (blue) squares",
    "cafe\u0301 photographs \u4e00 \U0001f600",
    "red <|endoftext|> circle <|im_end|> <think>",
    "the red photograph " * 26,
]
# Prompts for the small model: known words, an unknown word, and one that is too long for it.
FLUX_PROMPTS = ["a red circle", "a cat and a blue square moving left", "a red circle " * 9]
FLUX_LENGTHS = [8, 21]
PAIR_LENGTH = 4
CLIP_LENGTH = 77
QWEN_LENGTH = 64
MERGES = 60
START, END = "<|startoftext|>", "<|endoftext|>"
QWEN_SPECIAL = [END, "<|im_start|>", "<|im_end|>", "<think>", "</think>"]


def write(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")


def byte_level(word):
    (pieces,) = [ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(word)]
    return "".join(piece for piece, _ in pieces)


def clip_files(folder):
    """A byte pair encoding learned from WORDS; bytes that do not occur in them are unknown."""
    folder.mkdir(parents=True, exist_ok=True)
    split = [tuple(byte_level(word)[:-1]) + (byte_level(word)[-1] + "</w>",) for word in WORDS]
    letters = sorted({piece.removesuffix("</w>") for word in split for piece in word} | set("!()23"))
    vocab, merges = letters + [letter + "</w>" for letter in letters], []
    while len(merges) < MERGES:
        pairs = Counter(pair for word in split for pair in zip(word, word[1:]))
        if not pairs:
            break
        best = max(sorted(pairs), key=pairs.get)
        merges.append(" ".join(best))
        vocab.append("".join(best))
        for index, word in enumerate(split):
            joined = []
            for piece in word:
                if joined and (joined[-1], piece) == best:
                    joined[-1] += piece
                else:
                    joined.append(piece)
            split[index] = tuple(joined)
    write(folder / "vocab.json", {token: i for i, token in enumerate([*vocab, START, END])})
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    config = {
        "bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END, "model_max_length": CLIP_LENGTH,
        "tokenizer_class": "CLIPTokenizer",
    }
    write(folder / "tokenizer_config.json", config)
    return CLIPTokenizer.from_pretrained(folder)


def qwen3_files(folder, template):
    """One token per ASCII byte and the special tokens: enough to see where the parts of the conversation end."""
    vocab = sorted({byte_level(chr(code)) for code in range(128)})
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(vocab)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(QWEN_SPECIAL)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=END, eos_token="<|im_end|>", model_max_length=131072
    )
    fast.chat_template = template.read_text()
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "tokenizer.json", json.loads(tokenizer.to_str()))
    write(folder / "tokenizer_config.json", {"pad_token": END, "model_max_length": 131072})
    return fast


def clip_rows(tokenizer):
    for prompt in PROMPTS:
        full = tokenizer(prompt).input_ids
        row = tokenizer(prompt, padding="max_length", max_length=CLIP_LENGTH, truncation=True)
        length = sum(row.attention_mask)
        assert row.input_ids[length:] == [tokenizer.pad_token_id] * (CLIP_LENGTH - length)
        yield {"input_ids": row.input_ids[:length], "truncated": len(full) - length}


def qwen3_rows(tokenizer):
    """Calls the tokenizer as Flux2KleinPipeline._get_qwen3_prompt_embeds does."""
    for prompt in PROMPTS:
        messages = [{"role": "user", "content": prompt}]
        chat = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        row = tokenizer(chat, padding="max_length", truncation=True, max_length=QWEN_LENGTH)
        length = sum(row.attention_mask)
        assert row.attention_mask == [1] * length + [0] * (QWEN_LENGTH - length)
        yield {"chat": chat, "input_ids": row.input_ids[:length], "truncated": len(tokenizer(chat).input_ids) - length}


def save(folder, calls, tensors):
    """A case of prompts; calls are named, with their arguments."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny = "../../../../magcache-models/tiny/tiny-flux/"
    case = {
        "group": "prompts", "case": folder.name, "generator": Path(__file__).name,
        "parts": {part: tiny + part for part in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")},
        "calls": [
            {
                "name": name, "args": args, "inputs": {},
                "outputs": {key.removeprefix(f"{name}."): key for key in tensors if key.startswith(f"{name}.")},
            }
            for name, args in calls.items()
        ],
    }
    (folder / "case.json").write_text(json.dumps(case, indent=1) + "\n")
    save_file({key: value.contiguous().float() for key, value in tensors.items()}, folder / "golden.safetensors")


@torch.no_grad()
def embeds(model, out):
    """The pipeline's embeddings, and the pooled ones under the rule of old configurations."""
    pipeline = FluxPipeline.from_pretrained(model, transformer=None, vae=None, torch_dtype=torch.float32)
    calls, tensors = {}, {}
    for length, prompts in zip(FLUX_LENGTHS, (FLUX_PROMPTS[1:], FLUX_PROMPTS[:1])):
        sequence, pooled, _ = pipeline.encode_prompt(prompts, max_sequence_length=length)
        name = f"rows{length}"
        calls[name] = {"prompts": prompts, "max_sequence_length": length}
        tensors |= {f"{name}.prompt_embeds": sequence, f"{name}.pooled_prompt_embeds": pooled}
    # Another prompt for T5 than for CLIP.
    sequence, pooled, _ = pipeline.encode_prompt(FLUX_PROMPTS[0], FLUX_PROMPTS[1], max_sequence_length=PAIR_LENGTH)
    calls["pair"] = {"prompts": FLUX_PROMPTS[:1], "prompt_2": FLUX_PROMPTS[1], "max_sequence_length": PAIR_LENGTH}
    tensors |= {"pair.prompt_embeds": sequence, "pair.pooled_prompt_embeds": pooled}
    save(out / "flux_prompts", calls, tensors)
    legacy = CLIPTextModel.from_pretrained(model / "text_encoder", eos_token_id=2)
    ids = pipeline.tokenizer(FLUX_PROMPTS, padding="max_length", truncation=True, return_tensors="pt").input_ids
    pooled_legacy = legacy(input_ids=ids).pooler_output
    assert not torch.equal(pooled_legacy[:1], pooled)
    save(out / "flux_legacy_pooling", {"all": {"prompts": FLUX_PROMPTS}}, {"all.pooled_prompt_embeds": pooled_legacy})
    config = json.loads((model / "text_encoder" / "config.json").read_text()) | {"eos_token_id": 2}
    (out / "flux_legacy_pooling" / "text_encoder").mkdir(exist_ok=True)
    (out / "flux_legacy_pooling" / "text_encoder" / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def tokenizers(out, template):
    """The cases of the tokenizers alone."""
    clip, qwen3 = clip_files(out / "clip"), qwen3_files(out / "qwen3", template)
    cases = out.parent / "golden" / "tokenizers"
    for name, tokenizer, length, rows in [
        ("clip", clip, CLIP_LENGTH, clip_rows(clip)), ("qwen3", qwen3, QWEN_LENGTH, qwen3_rows(qwen3)),
    ]:
        prompts = [{"prompt": prompt} | row for prompt, row in zip(PROMPTS, rows)]
        recorded_cases.tokens(cases / name, name, length, tokenizer.pad_token_id, prompts, f"../../../flux_text/{name}")


def main():
    model, out, *template = map(Path, sys.argv[1:])
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    embeds(model, out)
    if template:
        tokenizers(out, *template)


if __name__ == "__main__":
    main()

"""Records how transformers and diffusers process prompts: cleaned text, token ids, embeddings and distance buckets.

    python tests/reference/tokenizer_fixture.py magcache-models/tiny/wan2.2-s2v-tiny tests/fixtures/tokenizer

Needs torch, diffusers (0.42.1), transformers (5.23.0), ftfy, sentencepiece and tokenizers. Writes
  wan_prompts/               a case: embeddings of its text encoder, as the Wan pipeline feeds them to the transformer
  buckets.json               relative position buckets for the sizes of the published models
and in `golden/tokenizers` beside it
  wan_words/                 a case: the tokenizer of the small model
  wan_unigram/               a case with a SentencePiece unigram tokenizer laid out like UMT5's, trained on the sentences below
"""

import json
import sys
from pathlib import Path

import recorded_cases
import sentencepiece
import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from safetensors.torch import save_file
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, UMT5EncoderModel
from transformers.models.t5.modeling_t5 import T5Attention

PROMPTS = [
    "a red circle moving right",
    "a blue square and a green triangle",
    "A Red CIRCLE Moving Right",
    "",
    "   ",
    "a  red\tcircle\n\nmoving   up ",
    "a\u00a0red\u2003circle\u3000moving\x1cleft",
    "a cat walks on the grass, realistic",
    "red&amp;blue",
    "a &lt;red&gt; circle &amp;amp; a square",
    "&quot;white&quot; &#39;purple&#39; &#x41;&#65 &hellip; &nbsp;up",
    "&notanentity; &copy &copyright &euro; &euro &#0; &#128; &#xD800; &#1114112; &#11; & &;",
    "&#38;lt;b&#38;gt; &amp;lt;i&amp;gt;",
    "caf\u00e9 &eacute;t&Eacute; &szlig &frac12;",
    "\u201ccurly\u201d and \u2018single\u2019 &ldquo;quotes&rdquo;",
    "\uff21 \uff52\uff45\uff44\uff0c circle\uff01\ufeff \"\u201eb\u201f\u201b\u02bc",
    "\u4e00\u53ea\u732b\u5728\u8349\u5730\u4e0a\u5954\u8dd1",
    "\u043a\u0440\u0430\u0441\u043d\u044b\u0439 \u043a\u0440\u0443\u0433",
    "\U0001f600 a red circle \U0001f680\U0001f468\u200d\U0001f469",
    "a red circle a red circle a red circle a red circle a red circle a red circle",
    "a " * 14 + "up",
    "a " * 15 + "up",
    "a " * 16 + "up",
    "a red </s> circle",
    "<pad> a <unk> red",
    "red,green;blue.yellow!white?",
    "up-down left/right (square) [circle] {triangle}",
    "12345 67.89 1e-5",
    "moving moving moving",
    "\x07bell and \u200bzero width",
    "</s>",
    "purple triangle moving down and white circle moving up",
    "Supercalifragilisticexpialidocious \u00c6sthetic na\u00efve co\u00f6perate",
]
SENTENCES = [
    "a red circle moving right", "a blue square moving left and a green triangle moving up", "a cat walks on the grass, realistic",
    "two cats and a dog run over the green field", "the camera moves slowly over the sea at night", "a white car drives down the road",
    "a woman walks through the rain with a red umbrella", "purple lights, realistic film, 4k quality", "the quick brown fox jumps over the lazy dog",
]
ENCODED = [0, 1, 3, 7, 19]


def compact(value):
    return json.dumps(value, separators=(",", ":")) + "\n"


def unigram(folder):
    """A trained model in the layout of google/umt5-xxl: <pad> 0, </s> 1, <unk> 2, byte fallback, a compiled normaliser."""
    folder.mkdir(parents=True, exist_ok=True)
    rules = folder / "rules.tsv"
    pairs = [(0xFF01 + i, 0x21 + i) for i in range(94)] + [(0x3000, 0x20), (0xA0, 0x20), (0x201C, 0x22), (0x201D, 0x22)]
    rules.write_text("".join(f"{a:X}\t{b:X}\n" for a, b in pairs) + "FB01\t66 69\n")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20), model_prefix=str(folder / "spm"), vocab_size=380, model_type="unigram", byte_fallback=True,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, pad_piece="<pad>", normalization_rule_tsv=str(rules), num_threads=1, hard_vocab_limit=False,
    )
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString((folder / "spm.model").read_bytes())
    for name in ["spm.model", "spm.vocab", "rules.tsv"]:
        (folder / name).unlink()
    tokenizer = Tokenizer(models.Unigram([(p.piece, p.score) for p in proto.pieces], unk_id=2, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    (folder / "tokenizer.json").write_text(compact(json.loads(tokenizer.to_str())))
    config = {
        "eos_token": {"__type": "AddedToken", "content": "</s>", "special": True}, "model_max_length": 10**30,
        "pad_token": {"__type": "AddedToken", "content": "<pad>", "special": True}, "unk_token": "<unk>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


def record(folder, max_length, out, model_folder=None):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    cases = []
    for prompt in PROMPTS:
        cleaned = prompt_clean(prompt)
        full = tokenizer(cleaned, add_special_tokens=True).input_ids
        padded = tokenizer(cleaned, padding="max_length", max_length=max_length, truncation=True, add_special_tokens=True)
        length = sum(padded.attention_mask)
        assert padded.attention_mask == [1] * length + [0] * (max_length - length)
        cases.append({"prompt": prompt, "cleaned": cleaned, "input_ids": padded.input_ids[:length], "truncated": len(full) - length})
    recorded_cases.tokens(out, "wan", max_length, tokenizer.pad_token_id, cases, model_folder)
    return tokenizer


def main():
    model, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    cases = out.parent / "golden" / "tokenizers"
    tiny = "../../../../../magcache-models/tiny/wan2.2-s2v-tiny/tokenizer"
    tokenizer = record(model / "tokenizer", 16, cases / "wan_words", tiny)
    unigram(cases / "wan_unigram")
    record(cases / "wan_unigram", 512, cases / "wan_unigram")

    encoder = UMT5EncoderModel.from_pretrained(model / "text_encoder", dtype=torch.float32).eval()
    inputs = tokenizer([prompt_clean(PROMPTS[i]) for i in ENCODED], padding="max_length", max_length=16, truncation=True, return_tensors="pt")
    with torch.no_grad():
        embeds = encoder(inputs.input_ids, inputs.attention_mask).last_hidden_state * inputs.attention_mask[..., None]
    folder, key = out / "wan_prompts", "all.prompt_embeds"
    folder.mkdir(exist_ok=True)
    save_file({key: embeds.contiguous()}, folder / "golden.safetensors")
    parts = {part: f"../../../../magcache-models/tiny/{model.name}/{part}" for part in ("text_encoder", "tokenizer")}
    call = {"name": "all", "args": {"prompts": [PROMPTS[i] for i in ENCODED]}, "inputs": {}, "outputs": {"prompt_embeds": key}}
    case = {"group": "prompts", "case": folder.name, "generator": Path(__file__).name, "parts": parts, "calls": [call]}
    (folder / "case.json").write_text(json.dumps(case, indent=1) + "\n")

    distances = torch.arange(-600, 601)
    sizes = [(32, 128), (32, 64), (16, 24), (64, 512)]
    buckets = [{"num_buckets": n, "max_distance": d, "buckets": T5Attention._relative_position_bucket(distances, True, n, d).tolist()} for n, d in sizes]
    (out / "buckets.json").write_text(compact({"first": -600, "sizes": buckets}))


if __name__ == "__main__":
    main()

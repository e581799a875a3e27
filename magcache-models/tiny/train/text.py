"""Text side of the speech-to-video model: one word-level tokenizer and a fixed, randomly initialised encoder.

The encoder is never trained: random features tell the words of this small grammar apart, and the transformers learn
to read them.
"""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from shapes import COLOURS, DIRECTIONS, SHAPES

WORDS = ["<pad>", "</s>", "<unk>", "a", "and", "moving", *COLOURS, *SHAPES, *DIRECTIONS]
VOCABULARY = 32
MAX_LENGTH = 16
WIDTH = 64


def build_tokenizer():
    """A tokenizer that splits at white space, appends ``</s>`` and maps words outside WORDS to ``<unk>``."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=MAX_LENGTH,
    )


def tokenize(prompts):
    """Word ids and mask, each [batch, MAX_LENGTH]."""
    out = build_tokenizer()(prompts, padding="max_length", truncation=True, return_tensors="pt")
    return out.input_ids, out.attention_mask


@torch.no_grad()
def encode_wan(encoder, prompts):
    """UMT5 features [batch, MAX_LENGTH, WIDTH], zero at the padding, as the Wan pipelines feed them."""
    ids, mask = (t.to(encoder.device) for t in tokenize(prompts))
    return encoder(input_ids=ids, attention_mask=mask).last_hidden_state * mask[..., None]

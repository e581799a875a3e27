"""Text side of the small models: one word-level tokenizer and fixed, randomly initialised encoders.

The encoders are never trained: random features tell the words of this small grammar apart, and the transformers learn
to read them.
"""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

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


def new_t5():
    """The sequence encoder of the Flux model."""
    config = T5Config(
        vocab_size=VOCABULARY, d_model=WIDTH, d_kv=16, d_ff=128, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config).eval()


def new_clip():
    """The pooled encoder of the Flux model; its pooled vector is the state at the first ``</s>``."""
    config = CLIPTextConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=128, projection_dim=WIDTH, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=MAX_LENGTH, pad_token_id=0, bos_token_id=3, eos_token_id=1,
        # At the usual scale random attention hardly mixes words, and every prompt has the same pooled vector.
        initializer_factor=8.0,
    )
    return CLIPTextModel(config).eval()


@torch.no_grad()
def encode_wan(encoder, prompts):
    """UMT5 features [batch, MAX_LENGTH, WIDTH], zero at the padding, as the Wan pipelines feed them."""
    ids, mask = (t.to(encoder.device) for t in tokenize(prompts))
    return encoder(input_ids=ids, attention_mask=mask).last_hidden_state * mask[..., None]


@torch.no_grad()
def encode_flux(clip, t5, prompts):
    """CLIP's pooled vector [batch, WIDTH] and T5's features [batch, MAX_LENGTH, WIDTH].

    As the Flux pipeline does, neither encoder is given a mask: T5 sees the padding.
    """
    ids = tokenize(prompts)[0].to(t5.device)
    return clip(input_ids=ids).pooler_output, t5(input_ids=ids).last_hidden_state

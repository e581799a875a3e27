"""Text side of the models: a word-level tokenizer, and encoders that are trained with the first transformer."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)
from world import COLOURS, MOTIONS, PANS, PLACES, SHAPES, TEXTURES

GRAMMAR = " ".join(["a and", *COLOURS, *TEXTURES[1:], *SHAPES, *MOTIONS, *PLACES, *PANS])
WORDS = ["<pad>", "</s>", "<unk>", *dict.fromkeys(GRAMMAR.split())]
VOCABULARY = 64
MAX_LENGTH = 20  # the longest sentence has 17 words
WIDTH = 64


def build_tokenizer():
    """A tokenizer that splits at white space, appends ``</s>`` and maps words outside WORDS to ``<unk>``."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=MAX_LENGTH
    )


def tokenize(prompts):
    """Word ids and mask, each [batch, MAX_LENGTH]."""
    out = build_tokenizer()(prompts, padding="max_length", truncation=True, return_tensors="pt")
    return out.input_ids, out.attention_mask


def sequence_config(kind):
    """Two layers of width 64; without dropout, because training runs in the same mode as use."""
    return kind(
        vocab_size=VOCABULARY, d_model=WIDTH, d_kv=16, d_ff=128, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu", dropout_rate=0.0, decoder_start_token_id=0,
    )  # fmt: skip


def new_umt5():
    """The encoder of the Wan models."""
    return UMT5EncoderModel(sequence_config(UMT5Config))


def new_t5():
    """The sequence encoder of the Flux model."""
    return T5EncoderModel(sequence_config(T5Config))


def new_clip():
    """The pooled encoder of the Flux model; its pooled vector is the state at the first ``</s>``."""
    config = CLIPTextConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=128, projection_dim=WIDTH, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=MAX_LENGTH, pad_token_id=0, bos_token_id=3, eos_token_id=1,
        # At the usual scale random attention hardly mixes words, and every prompt has the same pooled vector.
        initializer_factor=4.0,
    )  # fmt: skip
    return CLIPTextModel(config)


def encode_wan(encoder, ids, mask):
    """UMT5 features [batch, MAX_LENGTH, WIDTH], zero at the padding, as the Wan pipelines feed them."""
    return encoder(input_ids=ids, attention_mask=mask).last_hidden_state * mask[..., None]


def encode_flux(clip, t5, ids):
    """CLIP's pooled vector [batch, WIDTH] and T5's features [batch, MAX_LENGTH, WIDTH].

    As the Flux pipeline does, neither encoder is given a mask: T5 sees the padding.
    """
    return clip(input_ids=ids).pooler_output, t5(input_ids=ids).last_hidden_state


def dropped(ids, mask, probability):
    """The same words, those of some prompts replaced by none: what guidance compares with."""
    no_ids, no_mask = tokenize([""])
    drop = (torch.rand(len(ids), 1) < probability).to(ids.device)
    return torch.where(drop, no_ids.to(ids.device), ids), torch.where(drop, no_mask.to(ids.device), mask)

"""Native tensor names of Wan transformers with the names that diffusers' converter gives them.

    python tests/reference/wan_native_names.py tests/fixtures/wan_native_names.json

Needs torch and diffusers (0.42.1 made the file in the repository). The native names are those of `WanModel` in
Wan2.1's `wan/modules/model.py`: one block, with the image branch of I2V (the converter does not know `img_emb.emb_pos`
of FLF2V). The converter is `diffusers.loaders.single_file_utils.convert_wan_transformer_to_diffusers`. Every tensor
carries its own number, so a pair is found by value. Fails unless the converted names are exactly the parameters of
`WanTransformer3DModel`.
"""

import json
import sys
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers


def native_names():
    def linear(name):
        return [f"{name}.weight", f"{name}.bias"]

    def attention(name):
        return [n for p in "qkvo" for n in linear(f"{name}.{p}")] + [f"{name}.norm_{p}.weight" for p in "qk"]

    names = [n for m in ("patch_embedding", "text_embedding.0", "text_embedding.2", "time_embedding.0",
                         "time_embedding.2", "time_projection.1", "head.head") for n in linear(m)]
    names += ["head.modulation"] + [n for i in (0, 1, 3, 4) for n in linear(f"img_emb.proj.{i}")]
    block = attention("self_attn") + attention("cross_attn") + ["modulation", "cross_attn.norm_k_img.weight"]
    for module in ("cross_attn.k_img", "cross_attn.v_img", "norm3", "ffn.0", "ffn.2"):
        block += linear(module)
    return names + [f"blocks.0.{n}" for n in block]


def main():
    names = native_names()
    converted = convert_wan_transformer_to_diffusers({n: torch.tensor(i) for i, n in enumerate(names)})
    model = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, text_dim=8, freq_dim=8, ffn_dim=8, num_layers=1, image_dim=8,
        added_kv_proj_dim=24, rope_max_seq_len=8,
    )
    assert set(converted) == set(dict(model.named_parameters())), set(converted) ^ set(dict(model.named_parameters()))
    pairs = {names[int(value)]: name for name, value in converted.items()}
    Path(sys.argv[1]).write_text(json.dumps(pairs, indent=1, sort_keys=True) + "\n")
    print(f"{len(pairs)} names")


if __name__ == "__main__":
    main()

"""Miniature Wan checkpoints in the Wan team's layout, and the same ones as written by diffusers and transformers.

    python tests/reference/native_fixtures.py WAN21 WAN22 tests/fixtures/native

WAN21 and WAN22 are checkouts of github.com/Wan-Video/Wan2.1 (9737cba) and Wan2.2 (42bf4cf). Needs torch, diffusers and
transformers (0.42.1 and 5.23.0 made the files in the repository) and einops. Every component is created by the library, its tensors get
their native names here, and then the Wan team's own module loads those strictly and must give the library's output:
running both verifies names, order and operations. Where diffusers has a converter, it must restore the library's names.
"""

import contextlib
import importlib
import json
import re
import sys
import types
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers, convert_wan_vae_to_diffusers
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

HEADS, TEXT, IMAGE = 2, 16, 32


def attention(q, k, v, q_lens=None, k_lens=None, **_):
    """Replaces flash attention, `[batch, tokens, heads, channels]`."""
    if k_lens is not None:
        assert all(n == k.shape[1] for n in k_lens)
    out = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)))
    return out.transpose(1, 2)


def official(checkout, *names):
    """Modules of `wan/modules`, without running the package's imports."""
    for name in [n for n in sys.modules if n == "wan" or n.startswith("wan.")]:
        del sys.modules[name]
    for name in ("wan", "wan.modules"):
        package = types.ModuleType(name)
        package.__path__ = [str(Path(checkout) / name.replace(".", "/"))]
        sys.modules[name] = package
    tokenizers = types.ModuleType("wan.modules.tokenizers")
    tokenizers.HuggingfaceTokenizer = None
    sys.modules["wan.modules.tokenizers"] = tokenizers
    flash = types.ModuleType("wan.modules.attention")
    flash.flash_attention = flash.attention = attention
    sys.modules["wan.modules.attention"] = flash
    for name in ("torchvision", "torchvision.transforms"):
        sys.modules.setdefault(name, types.ModuleType(name))
    # The defaults of their functions need a GPU.
    torch.cuda.current_device = lambda: "cpu"
    return [importlib.import_module(f"wan.modules.{name}") for name in names]


def shaken(model):
    """Random values everywhere, so that no tensor can be missed or swapped."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn_like(p) * (0.4 if p.dim() > 1 else 0.2) + (1.0 if "norm" in name and p.dim() == 1 else 0.0))
            if p.dim() > 1:
                p.mul_(min(1.0, 2 / p[0].numel() ** 0.5))
            # Values that 16 bits can hold, so that files are small and both layouts are equal.
            p.copy_(p.bfloat16().float())
    return model.eval()


def agree(what, ours, theirs):
    error = (ours - theirs).abs().max().item()
    print(f"{what}: {error:.1e} of {ours.abs().max().item():.2f}")
    assert error < 2e-5 * max(1.0, ours.abs().max().item()), what


def renamed(state, table):
    """The state, with each name rewritten by the first pattern of the table that matches it."""
    out = {}
    for name, tensor in state.items():
        for pattern, native in table:
            new, n = re.subn(f"^{pattern}$", native, name)
            if n:
                assert new not in out, new
                out[new] = tensor
                break
        else:
            raise KeyError(name)
    return out


TRANSFORMER = [
    (r"patch_embedding\.(\w+)", r"patch_embedding.\1"),
    (r"condition_embedder\.time_embedder\.linear_1\.(\w+)", r"time_embedding.0.\1"),
    (r"condition_embedder\.time_embedder\.linear_2\.(\w+)", r"time_embedding.2.\1"),
    (r"condition_embedder\.time_proj\.(\w+)", r"time_projection.1.\1"),
    (r"condition_embedder\.text_embedder\.linear_1\.(\w+)", r"text_embedding.0.\1"),
    (r"condition_embedder\.text_embedder\.linear_2\.(\w+)", r"text_embedding.2.\1"),
    (r"condition_embedder\.image_embedder\.norm1\.(\w+)", r"img_emb.proj.0.\1"),
    (r"condition_embedder\.image_embedder\.ff\.net\.0\.proj\.(\w+)", r"img_emb.proj.1.\1"),
    (r"condition_embedder\.image_embedder\.ff\.net\.2\.(\w+)", r"img_emb.proj.3.\1"),
    (r"condition_embedder\.image_embedder\.norm2\.(\w+)", r"img_emb.proj.4.\1"),
    (r"condition_embedder\.image_embedder\.pos_embed", r"img_emb.emb_pos"),
    (r"scale_shift_table", r"head.modulation"),
    (r"proj_out\.(\w+)", r"head.head.\1"),
    (r"blocks\.(\d+)\.scale_shift_table", r"blocks.\1.modulation"),
    (r"blocks\.(\d+)\.norm2\.(\w+)", r"blocks.\1.norm3.\2"),
    (r"blocks\.(\d+)\.attn1\.to_([qkv])\.(\w+)", r"blocks.\1.self_attn.\2.\3"),
    (r"blocks\.(\d+)\.attn1\.to_out\.0\.(\w+)", r"blocks.\1.self_attn.o.\2"),
    (r"blocks\.(\d+)\.attn1\.norm_([qk])\.(\w+)", r"blocks.\1.self_attn.norm_\2.\3"),
    (r"blocks\.(\d+)\.attn2\.to_([qkv])\.(\w+)", r"blocks.\1.cross_attn.\2.\3"),
    (r"blocks\.(\d+)\.attn2\.to_out\.0\.(\w+)", r"blocks.\1.cross_attn.o.\2"),
    (r"blocks\.(\d+)\.attn2\.norm_([qk])\.(\w+)", r"blocks.\1.cross_attn.norm_\2.\3"),
    (r"blocks\.(\d+)\.attn2\.add_([kv])_proj\.(\w+)", r"blocks.\1.cross_attn.\2_img.\3"),
    (r"blocks\.(\d+)\.attn2\.norm_added_k\.(\w+)", r"blocks.\1.cross_attn.norm_k_img.\2"),
    (r"blocks\.(\d+)\.ffn\.net\.0\.proj\.(\w+)", r"blocks.\1.ffn.0.\2"),
    (r"blocks\.(\d+)\.ffn\.net\.2\.(\w+)", r"blocks.\1.ffn.2.\2"),
]


def transformer(out, native_out, checkout, seed, model_type, in_dim, out_dim, image=False, frames=None):
    """Writes one transformer in both layouts."""
    torch.manual_seed(seed)
    (model,) = official(checkout, "model")
    dim, config = 24, {}
    if image:
        config = {"image_dim": IMAGE, "added_kv_proj_dim": dim, "pos_embed_seq_len": frames}
    ours = shaken(WanTransformer3DModel(
        num_attention_heads=HEADS, attention_head_dim=dim // HEADS, in_channels=in_dim, out_channels=out_dim,
        text_dim=TEXT, freq_dim=16, ffn_dim=32, num_layers=2, rope_max_seq_len=1024, **config))
    ours.save_pretrained(out)
    state = {n: t.clone() for n, t in ours.state_dict().items()}
    native = renamed(state, TRANSFORMER)
    back = convert_wan_transformer_to_diffusers(dict(native))
    # The converter does not know the positions of FLF2V.
    back = {"condition_embedder.image_embedder.pos_embed" if n == "img_emb.emb_pos" else n: t for n, t in back.items()}
    assert set(back) == set(state) and all(torch.equal(back[n], state[n]) for n in state)

    theirs = model.WanModel(model_type=model_type, dim=dim, in_dim=in_dim, out_dim=out_dim, ffn_dim=32, freq_dim=16,
                            text_dim=TEXT, num_heads=HEADS, num_layers=2, text_len=8, cross_attn_norm=True)
    if image:
        # Their module has 1280 channels and, for two frames, 2 * 257 positions.
        theirs.img_emb = model.MLPProj(IMAGE, dim, frames is not None)
    if frames:
        theirs.img_emb.emb_pos = torch.nn.Parameter(torch.zeros_like(native["img_emb.emb_pos"]))
    theirs.load_state_dict(native, strict=True)
    theirs = theirs.float().eval()
    latents, text = torch.randn(1, out_dim, 2, 4, 4), torch.randn(1, 8, TEXT)
    y = torch.randn(1, in_dim - out_dim, 2, 4, 4) if in_dim > out_dim else None
    arguments = {}
    if image:
        # diffusers takes the last 512 tokens for the text.
        text = torch.cat([text, torch.zeros(1, 504, TEXT)], 1)
        theirs.text_len = 512
        embeds = torch.randn(1, frames or 5, IMAGE)
        arguments["clip_fea"] = embeds.reshape(-1, (frames or 10) // 2, IMAGE) if frames else embeds
    if y is not None:
        arguments["y"] = [y[0]]
    tokens = 2 * 2 * 2
    with torch.no_grad():
        # Their code casts to bf16 explicitly; here everything stays f32.
        with disabled_autocast():
            t = torch.tensor([500.0])
            got = theirs([latents[0]], t=t, context=[text[0]], seq_len=tokens, **arguments)[0]
        if image:
            expected = ours(torch.cat([latents, y], 1), t, text,
                            encoder_hidden_states_image=embeds.reshape(-1, embeds.shape[1] // 2, IMAGE) if frames else embeds)
        else:
            expected = ours(latents if y is None else torch.cat([latents, y], 1), t, text)
    agree(f"transformer {model_type} {seed}", got[None], expected.sample)
    native_out.mkdir(parents=True, exist_ok=True)
    config = {"_class_name": "WanModel", "_diffusers_version": "0.33.0", "dim": dim, "eps": 1e-06, "ffn_dim": 32,
              "freq_dim": 16, "in_dim": in_dim, "model_type": model_type, "num_heads": HEADS, "num_layers": 2,
              "out_dim": out_dim, "text_len": 512}
    (native_out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file({n: t.contiguous() for n, t in native.items()}, native_out / "diffusion_pytorch_model.safetensors")


@contextlib.contextmanager
def disabled_autocast():
    class Off(contextlib.nullcontext):
        def __init__(self, *_, **__):
            super().__init__()

        def __call__(self, function):
            return function
    amp, cuda = torch.amp.autocast, torch.cuda.amp.autocast
    torch.amp.autocast = torch.cuda.amp.autocast = Off
    try:
        yield
    finally:
        torch.amp.autocast, torch.cuda.amp.autocast = amp, cuda


BLOCK = [("norm1", "residual.0"), ("conv1", "residual.2"), ("norm2", "residual.3"), ("conv2", "residual.6"),
         ("conv_shortcut", "shortcut")]


def vae_table(nested, decoder_blocks):
    table = [(r"quant_conv\.(\w+)", r"conv1.\1"), (r"post_quant_conv\.(\w+)", r"conv2.\1"),
             (r"(..)coder\.conv_in\.(\w+)", r"\1coder.conv1.\2"), (r"(..)coder\.norm_out\.(\w+)", r"\1coder.head.0.\2"),
             (r"(..)coder\.conv_out\.(\w+)", r"\1coder.head.2.\2"),
             (r"(..)coder\.mid_block\.attentions\.0\.(.+)", r"\1coder.middle.1.\2")]
    for module, native in BLOCK:
        for i in (0, 1):
            table.append((rf"(..)coder\.mid_block\.resnets\.{i}\.{module}\.(\w+)", rf"\1coder.middle.{2 * i}.{native}.\2"))
        if nested:
            table += [(rf"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.{module}\.(\w+)",
                       rf"encoder.downsamples.\1.downsamples.\2.{native}.\3"),
                      (rf"decoder\.up_blocks\.(\d+)\.resnets\.(\d+)\.{module}\.(\w+)",
                       rf"decoder.upsamples.\1.upsamples.\2.{native}.\3")]
        else:
            table.append((rf"encoder\.down_blocks\.(\d+)\.{module}\.(\w+)", rf"encoder.downsamples.\1.{native}.\2"))
            for level in range(4):
                for i in range(decoder_blocks):
                    n = level * (decoder_blocks + 1) + i
                    table.append((rf"decoder\.up_blocks\.{level}\.resnets\.{i}\.{module}\.(\w+)",
                                  rf"decoder.upsamples.{n}.{native}.\1"))
    if nested:
        table += [(r"encoder\.down_blocks\.(\d+)\.downsampler\.(.+)",
                   rf"encoder.downsamples.\1.downsamples.{decoder_blocks - 1}.\2"),
                  (r"decoder\.up_blocks\.(\d+)\.upsampler\.(.+)", rf"decoder.upsamples.\1.upsamples.{decoder_blocks}.\2")]
    else:
        table.append((r"encoder\.down_blocks\.(\d+)\.(resample.+|time_conv.+)", r"encoder.downsamples.\1.\2"))
        for level in range(4):
            n = level * (decoder_blocks + 1) + decoder_blocks
            table.append((rf"decoder\.up_blocks\.{level}\.upsamplers\.0\.(.+)", rf"decoder.upsamples.{n}.\1"))
    return table


def vae(out, native_file, checkout, seed, module, z_dim, dim_mult, down, blocks=1, base_dim=4, **extra):
    torch.manual_seed(seed)
    (wan,) = official(checkout, module)
    nested = module == "vae2_2"
    if not nested:
        extra = {"scale_factor_temporal": 2 ** sum(down), "scale_factor_spatial": 2 ** len(down)}
    ours = shaken(AutoencoderKLWan(base_dim=base_dim, z_dim=z_dim, dim_mult=dim_mult, num_res_blocks=blocks,
                                   temperal_downsample=down, latents_mean=[0.0] * z_dim, latents_std=[1.0] * z_dim,
                                   is_residual=nested, **extra))
    ours.save_pretrained(out)
    save_file({n: t.bfloat16() for n, t in ours.state_dict().items()}, out / "diffusion_pytorch_model.safetensors")
    state = ours.state_dict()
    native = renamed(state, vae_table(nested, blocks + 1))
    if not nested and blocks == 2 and len(dim_mult) == 4:
        back = convert_wan_vae_to_diffusers(dict(native))
        assert set(back) == set(state) and all(torch.equal(back[n], state[n]) for n in state)
    arguments = {"dec_dim": extra["decoder_base_dim"]} if nested else {}
    theirs = wan.WanVAE_(dim=base_dim, z_dim=z_dim, dim_mult=dim_mult, num_res_blocks=blocks, attn_scales=[],
                         temperal_downsample=down, **arguments)
    theirs.load_state_dict(native, strict=True)
    theirs = theirs.eval()
    pixels = (2 if nested else 1) * 2 ** len(down)
    frames = 1 + 4 * 2
    video = torch.rand(1, 3, frames, 2 * pixels, 2 * pixels) * 2 - 1
    with torch.no_grad(), disabled_autocast():
        latents = ours.encode(video).latent_dist.mode()
        agree(f"{module} {seed} encodes", theirs.encode(video, [0.0, 1.0]), latents)
        z = torch.randn_like(latents)
        agree(f"{module} {seed} decodes", theirs.decode(z, [0.0, 1.0]).clamp(-1, 1), ours.decode(z).sample)
    native_file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({n: t.bfloat16() for n, t in native.items()}, native_file)


T5 = [(r"shared\.weight", r"token_embedding.weight"), (r"encoder\.final_layer_norm\.weight", r"norm.weight"),
      (r"encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.([qkvo])\.weight", r"blocks.\1.attn.\2.weight"),
      (r"encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.relative_attention_bias\.weight",
       r"blocks.\1.pos_embedding.embedding.weight"),
      (r"encoder\.block\.(\d+)\.layer\.0\.layer_norm\.weight", r"blocks.\1.norm1.weight"),
      (r"encoder\.block\.(\d+)\.layer\.1\.layer_norm\.weight", r"blocks.\1.norm2.weight"),
      (r"encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_0\.weight", r"blocks.\1.ffn.gate.0.weight"),
      (r"encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_1\.weight", r"blocks.\1.ffn.fc1.weight"),
      (r"encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wo\.weight", r"blocks.\1.ffn.fc2.weight")]


def text_encoder(out, native_file, checkout, seed):
    torch.manual_seed(seed)
    (t5,) = official(checkout, "t5")
    ours = shaken(UMT5EncoderModel(UMT5Config(
        vocab_size=64, d_model=TEXT, d_kv=6, d_ff=24, num_layers=2, num_heads=3, feed_forward_proj="gated-gelu")))
    ours.save_pretrained(out)
    state = {n: t for n, t in ours.state_dict().items() if n != "encoder.embed_tokens.weight"}
    save_file({n: t.bfloat16() for n, t in state.items()}, out / "model.safetensors")
    native = renamed(state, T5)
    theirs = t5.T5Encoder(64, TEXT, 18, 24, 3, 2, 32, shared_pos=False)
    theirs.load_state_dict(native, strict=True)
    theirs = theirs.eval()
    ids = torch.randint(0, 64, (1, 40))
    mask = (torch.arange(40) < 33).long()[None]
    with torch.no_grad():
        agree("t5", theirs(ids, mask)[:, :33], ours(ids, mask).last_hidden_state[:, :33])
    native_file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({n: t.bfloat16() for n, t in native.items()}, native_file)


CLIP = [(r"patch_embedding\.weight", "patch_embedding.weight"), (r"pre_layrnorm\.(\w+)", r"pre_norm.\1"),
        (r"post_layernorm\.(\w+)", r"post_norm.\1"),
        (r"encoder\.layers\.(\d+)\.layer_norm([12])\.(\w+)", r"transformer.\1.norm\2.\3"),
        (r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.(\w+)", r"transformer.\1.attn.proj.\2"),
        (r"encoder\.layers\.(\d+)\.mlp\.fc1\.(\w+)", r"transformer.\1.mlp.0.\2"),
        (r"encoder\.layers\.(\d+)\.mlp\.fc2\.(\w+)", r"transformer.\1.mlp.2.\2")]


def image_encoder(out, native_file, checkout, seed):
    """A vision tower with as many heads as the published one: its file does not state the number."""
    torch.manual_seed(seed)
    (clip,) = official(checkout, "clip")
    clip.flash_attention = attention
    dim = IMAGE
    ours = shaken(CLIPVisionModel(CLIPVisionConfig(
        hidden_size=dim, intermediate_size=48, num_hidden_layers=3, num_attention_heads=16, image_size=12, patch_size=6,
        hidden_act="gelu", projection_dim=8)))
    ours.save_pretrained(out)
    state = {n.removeprefix("vision_model."): t for n, t in ours.state_dict().items() if "position_ids" not in n}
    save_file({f"vision_model.{n}": t.bfloat16() for n, t in state.items()}, out / "model.safetensors")
    fused, rest = {}, {}
    for name, tensor in state.items():
        if match := re.match(r"encoder\.layers\.(\d+)\.self_attn\.[qkv]_proj\.(\w+)", name):
            n, parameter = match.groups()
            parts = [state[f"encoder.layers.{n}.self_attn.{p}_proj.{parameter}"] for p in "qkv"]
            fused[f"transformer.{n}.attn.to_qkv.{parameter}"] = torch.cat(parts)
        elif name.startswith("embeddings."):
            short = name.removeprefix("embeddings.")
            if short == "class_embedding":
                fused["cls_embedding"] = tensor[None, None]
            elif short == "position_embedding.weight":
                fused["pos_embedding"] = tensor[None]
            else:
                rest[short] = tensor
        else:
            rest[name] = tensor
    native = {f"visual.{n}": t for n, t in {**renamed(rest, CLIP), **fused}.items()}
    native["visual.head"] = torch.randn(dim, 8)
    theirs = clip.VisionTransformer(image_size=12, patch_size=6, dim=dim, mlp_ratio=1.5, out_dim=8, num_heads=16,
                                    num_layers=3, pool_type="token", activation="gelu")
    theirs.load_state_dict({n.removeprefix("visual."): t for n, t in native.items()}, strict=True)
    theirs = theirs.eval()
    pixels = torch.randn(1, 3, 12, 12)
    with torch.no_grad():
        agree("clip", theirs(pixels, use_31_block=True), ours(pixels, output_hidden_states=True).hidden_states[-2])
    # The published file also contains the text tower and the temperature.
    native["textual.token_embedding.weight"] = torch.randn(3, 2)
    native["log_scale"] = torch.tensor(2.6593)
    native_file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({n: t.bfloat16() for n, t in native.items()}, native_file)


def scheduler(out, shift):
    out.mkdir(parents=True, exist_ok=True)
    config = {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "use_flow_sigmas": True,
              "flow_shift": shift, "num_train_timesteps": 1000}
    (out / "scheduler_config.json").write_text(json.dumps(config, indent=2) + "\n")


def index(out, class_name, **values):
    out.mkdir(parents=True, exist_ok=True)
    config = {"_class_name": class_name, "boundary_ratio": None, "expand_timesteps": False, **values}
    (out / "model_index.json").write_text(json.dumps(config, indent=2) + "\n")


def main():
    wan21, wan22, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    network = ["diffusers", "WanTransformer3DModel"]

    # The models of Wan2.1 and the A14B share one autoencoder, those with image input share one image encoder.
    def common(name, seed, shift=5.0):
        ours, native = out / name / "diffusers", out / name / "native"
        scheduler(ours / "scheduler", shift)
        text_encoder(ours / "text_encoder", native / "models_t5_umt5-xxl-enc-bf16.pth", wan22, seed)
        if name == "t2v-a14b":
            vae(ours / "vae", native / "Wan2.1_VAE.pth", wan21, seed, "vae", 4, [1, 2], [True])
        return ours, native

    ours, native = common("t2v-a14b", 1, shift=12.0)
    index(ours, "WanPipeline", boundary_ratio=0.875, transformer_2=network)
    for i, (ours_name, native_name) in enumerate([("transformer", "high_noise_model"), ("transformer_2", "low_noise_model")]):
        transformer(ours / ours_name, native / native_name, wan22, 10 + i, "t2v", 4, 4)
        (out / "t2v-a14b" / "pth" / native_name).mkdir(parents=True, exist_ok=True)
        torch.save(load_file(native / native_name / "diffusion_pytorch_model.safetensors"),
                   out / "t2v-a14b" / "pth" / native_name / "diffusion_pytorch_model.pth")
    ours, native = common("i2v-a14b", 2)
    index(ours, "WanImageToVideoPipeline", boundary_ratio=0.9, transformer_2=network)
    for i, (ours_name, native_name) in enumerate([("transformer", "high_noise_model"), ("transformer_2", "low_noise_model")]):
        transformer(ours / ours_name, native / native_name, wan22, 20 + i, "i2v", 10, 4)
    for name, seed, kind, frames in [("i2v", 3, "i2v", None), ("flf2v", 4, "flf2v", 10)]:
        ours, native = common(name, seed)
        index(ours, "WanImageToVideoPipeline", image_encoder=["transformers", "CLIPVisionModel"])
        if name == "i2v":
            clip = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
            image_encoder(ours / "image_encoder", native / clip, wan21, seed)
        transformer(ours / "transformer", native, wan21, seed, kind, 10, 4, image=True, frames=frames)
    ours, native = common("ti2v", 5)
    index(ours, "WanPipeline", expand_timesteps=True)
    transformer(ours / "transformer", native, wan22, 50, "ti2v", 6, 6)
    vae(ours / "vae", native / "Wan2.2_VAE.pth", wan22, 5, "vae2_2", 6, [1, 2, 2], [False, True], decoder_base_dim=6,
        in_channels=12, out_channels=12, patch_size=2, scale_factor_spatial=8, scale_factor_temporal=2)
    # The first autoencoder with its published depth, for which diffusers has a converter.
    vae(out / "vae" / "diffusers", out / "vae" / "native" / "Wan2.1_VAE.pth", wan21, 6, "vae", 4, [1, 2, 4, 4],
        [False, True, True], blocks=2, base_dim=2)
    print(sum(p.stat().st_size for p in out.rglob("*") if p.is_file()), "bytes")


if __name__ == "__main__":
    main()

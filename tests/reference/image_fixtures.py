"""Small images, and how Pillow, diffusers and transformers read and preprocess them.

    python tests/reference/image_fixtures.py

Writes the case `tests/fixtures/golden/pictures/pillow`: files in every supported format, their pixels, scaled images,
frames for a video autoencoder and inputs of the CLIP encoder.
"""

import io
from pathlib import Path

import numpy as np
import recorded_cases
import torch
from PIL import Image, ImageOps
from safetensors.torch import save_file
from diffusers.video_processor import VideoProcessor
from diffusers.utils import load_image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

out = Path(__file__).resolve().parents[1] / "fixtures" / "golden" / "pictures" / "pillow"
rng = np.random.default_rng(20)
def picture(w, h):
    y, x = np.mgrid[0:h, 0:w]
    base = np.stack([x * 255 / max(w - 1, 1), y * 255 / max(h - 1, 1), 127 + 120 * np.sin(x * 0.9 + y * 0.7)], -1)
    noise = rng.integers(-40, 41, (h, w, 3))
    a = np.clip(base + noise, 0, 255).astype(np.uint8)
    a[h // 3: h // 3 + 3, w // 2: w // 2 + 4] = [255, 0, 255]
    return Image.fromarray(a)
t = {}
put = lambda k, im: t.__setitem__(k, torch.from_numpy(np.array(im).copy()))
# scaling
src = picture(37, 23)
put("scale.source", src)
for name, f in (("bilinear", Image.BILINEAR), ("bicubic", Image.BICUBIC), ("lanczos", Image.LANCZOS)):
    for w, h in ((64, 48), (16, 10), (5, 5), (37, 9), (90, 23), (1, 1)):
        put(f"scale.{name}.{w}x{h}", src.resize((w, h), f))
for w, h in ((32, 32), (16, 20), (24, 8)):
    put(f"cover.{w}x{h}", ImageOps.fit(src, (w, h), Image.LANCZOS))
# autoencoder input
vp = VideoProcessor(vae_scale_factor=8)
for w, h in ((24, 16), (48, 32)):
    t[f"frame.{w}x{h}"] = vp.preprocess(src, height=h, width=w).float()
# CLIP input
for w, h in ((37, 23), (23, 37), (16, 16), (40, 16)):
    im = picture(w, h)
    put(f"clip.{w}x{h}.source", im)
    p = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    t[f"clip.{w}x{h}.pixel_values"] = p(images=im, return_tensors="pt")["pixel_values"].float()
# formats
small = picture(12, 7)
def keep(name, im, **kw):
    im.save(f"{out}/{name}", **kw)
    put(f"file.{name}", load_image(f"{out}/{name}"))
keep("rgb.png", small)
rgba = small.convert("RGBA"); rgba.putalpha(Image.fromarray(rng.integers(0, 256, (7, 12), dtype=np.uint8)))
keep("rgba.png", rgba)
keep("gray.png", small.convert("L"))
keep("gray_alpha.png", rgba.convert("LA"))
keep("palette.png", small.quantize(16))
keep("palette_transparent.png", small.quantize(16), transparency=3)
keep("bilevel.png", small.convert("1"))
keep("rgb.bmp", small)
keep("rgb.tiff", small, compression="tiff_lzw")
keep("palette.gif", small.quantize(16))
keep("rgb.webp", small, lossless=True)
keep("rgba.webp", rgba, lossless=True, exact=True)
smooth = Image.fromarray(np.stack([np.tile(np.linspace(0, 255, 24).astype(np.uint8), (16, 1)), np.tile(np.linspace(255, 0, 16).astype(np.uint8)[:, None], (1, 24)), np.full((16, 24), 90, np.uint8)], -1))
keep("rgb.jpg", smooth, quality=92, subsampling=0)
keep("gray.jpg", smooth.convert("L"), quality=92)
keep("cmyk.jpg", smooth.convert("CMYK"), quality=92)
keep("progressive.jpg", smooth, quality=92, progressive=True, subsampling=0)
keep("subsampled.jpg", smooth, quality=92, subsampling=2)
for o in range(2, 9):
    ex = Image.Exif(); ex[0x0112] = o
    keep(f"turned{o}.jpg", smooth, quality=92, subsampling=0, exif=ex)
ex = Image.Exif(); ex[0x0112] = 6
keep("turned6.png", small, exif=ex)
keep("turned6.webp", small, lossless=True, exif=ex)
keep("turned6.tiff", small, exif=ex)
save_file({k: v.contiguous() for k, v in t.items()}, f"{out}/golden.safetensors")
recorded_cases.pictures(out, t)

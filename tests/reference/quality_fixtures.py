"""Pairs of small videos with their PSNR and SSIM from scikit-image, frame by frame.

    python tests/reference/quality_fixtures.py tests/fixtures/quality

Needs numpy, scikit-image (0.26.0 made the files in the repository) and safetensors. Writes frames.safetensors
(`<case>.a`, `<case>.b`: [frames, height, width, channels], u8 or f32) and cases.json.
"""

import json
import sys
from pathlib import Path

import numpy as np
import skimage
from safetensors.numpy import save_file
from skimage.metrics import peak_signal_noise_ratio, structural_similarity


def scene(rng, frames, height, width, channels):
    """Smooth moving shapes in 0..1, so that SSIM has structure to find."""
    t, y, x, c = np.meshgrid(*(np.arange(n) for n in (frames, height, width, channels)), indexing="ij")
    phase = rng.uniform(0, 6, channels)[c]
    return 0.5 + 0.4 * np.sin(0.45 * x + 0.2 * t + phase) * np.cos(0.3 * y - 0.1 * t)


def cases():
    rng = np.random.default_rng(0)
    noisy = lambda a, scale: a + rng.normal(0, scale, a.shape)
    u8 = lambda a: (np.clip(a, 0, 1) * 255).round().astype(np.uint8)
    f32 = lambda a: a.astype(np.float32)
    a = scene(rng, 3, 19, 24, 3)
    yield "u8_noise", u8(a), u8(noisy(a, 0.05)), 255.0
    yield "u8_shifted", u8(a), np.roll(u8(a), 2, axis=2), 255.0
    yield "u8_black_and_white", np.zeros((1, 8, 9, 3), np.uint8), np.full((1, 8, 9, 3), 255, np.uint8), 255.0
    one = u8(a)
    few = one.copy()
    few[1, 5, 6, 2] ^= 255
    yield "u8_one_sample", one, few, 255.0
    yield "u8_equal", one, one.copy(), 255.0
    a = scene(rng, 2, 16, 13, 3)
    yield "f32_unit", f32(a), f32(noisy(a, 0.1)), 1.0
    yield "f32_signed", f32(2 * a - 1), f32(noisy(2 * a - 1, 0.02)), 2.0
    yield "f32_inverted", f32(2 * a - 1), f32(1 - 2 * a), 2.0
    a = scene(rng, 1, 7, 7, 1)
    yield "f32_one_window_grey", f32(a), f32(noisy(a, 0.2)), 1.0
    a = scene(rng, 1, 40, 32, 3)
    yield "f32_flat_beside_bright", f32(a * (a > 0.5) * 200), f32(noisy(a * (a > 0.5) * 200, 1e-3)), 255.0


def main(out):
    tensors, rows = {}, []
    for name, a, b, data_range in cases():
        frames = []
        for x, y in zip(a, b):
            with np.errstate(divide="ignore"):
                psnr = float(peak_signal_noise_ratio(x, y, data_range=data_range))
            ssim = float(structural_similarity(x, y, channel_axis=-1, data_range=data_range))
            frames.append({"psnr": psnr if np.isfinite(psnr) else None, "ssim": ssim})
        tensors |= {f"{name}.a": a, f"{name}.b": np.ascontiguousarray(b)}
        rows.append({"name": name, "data_range": data_range, "frames": frames})
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "frames.safetensors")
    versions = {"scikit-image": skimage.__version__, "numpy": np.__version__}
    text = json.dumps({"generator": Path(__file__).name, "versions": versions, "cases": rows}, indent=1)
    (out / "cases.json").write_text(text + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

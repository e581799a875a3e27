"""Small files written by `torch.save` in every form that the reader supports, and in some that it must refuse.

    python tests/reference/torch_fixtures.py tests/fixtures/torch

Needs torch (2.11 made the files in the repository) and safetensors. `expected.safetensors` has the values of the tensors
in `state_dict.pth`, `protocol4.pth`, `legacy.pth` and `wrapped.pth`, contiguous, floats only.
"""

import argparse
import collections
import os
import sys
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file


class Shell:
    """What a malicious checkpoint does: a call when it is loaded."""

    def __reduce__(self):
        return os.system, ("true",)


def tensors():
    x = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) * 0.37 - 3
    flat = torch.linspace(-2, 2, 40)
    return collections.OrderedDict(
        plain=x.clone(),
        half=x.half(),
        brain=x.bfloat16(),
        scalar=torch.tensor(0.5),
        empty=torch.zeros(0, 3),
        # Views: permuted, every second row, inside a larger storage, two in one storage.
        permuted=x.permute(2, 0, 1),
        strided=x[:, ::2, 1:3],
        offset=flat[7:19].reshape(3, 4),
        shared=flat[16:20],
        parameter=torch.nn.Parameter(x[0].clone()),
        transposed_half=x[0].half().t(),
        double=x.double(),
        long=torch.arange(3),
        tiny=x[0].to(torch.float8_e4m3fn),
    )


def main():
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    state = tensors()
    state._metadata = collections.OrderedDict({"": {"version": 1}})
    torch.save(state, out / "state_dict.pth")
    torch.save(state, out / "protocol4.pth", pickle_protocol=4)
    torch.save(state, out / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save({"epoch": 3, "lr": 1e-4, "optimizer": {"state": {}}, "model_state": state}, out / "wrapped.pth")
    torch.save({"a": {"x": state["plain"]}, "b": {"x": state["plain"]}}, out / "ambiguous.pth")
    torch.save([state["plain"]], out / "list.pth")
    torch.save({"x": state["plain"], "args": argparse.Namespace(lr=1)}, out / "namespace.pth")
    torch.save({"x": state["plain"], "y": Shell()}, out / "shell.pth")
    torch.save({"x": state["plain"].expand(5, 2, 3, 4)}, out / "expanded.pth")
    with zipfile.ZipFile(out / "state_dict.pth") as whole, zipfile.ZipFile(out / "compressed.pth", "w") as packed:
        for entry in whole.infolist():
            packed.writestr(entry.filename, whole.read(entry.filename), zipfile.ZIP_DEFLATED)
    # Files above 4 GiB have sizes and offsets in their 64-bit form.
    with zipfile.ZipFile(out / "state_dict.pth") as whole, zipfile.ZipFile(out / "zip64.pth", "w") as large:
        for entry in whole.infolist():
            with large.open(zipfile.ZipInfo(entry.filename), "w", force_zip64=True) as target:
                target.write(whole.read(entry.filename))
    zip64_directory(out / "zip64.pth")
    floats = {n: t.detach().contiguous().clone() for n, t in state.items()
              if t.dtype in (torch.float32, torch.float16, torch.bfloat16)}
    save_file(floats, out / "expected.safetensors")
    print(*(f"{p.name} {p.stat().st_size}" for p in sorted(out.iterdir())), sep="\n")


def zip64_directory(path):
    """Rewrites the end of an archive and its directory as if every 32-bit field had overflowed."""
    data = path.read_bytes()
    end = data.rindex(b"PK\x05\x06")
    count = int.from_bytes(data[end + 10:end + 12], "little")
    start = int.from_bytes(data[end + 16:end + 20], "little")
    directory, at = b"", start
    for _ in range(count):
        name, extra, comment = (int.from_bytes(data[at + i:at + i + 2], "little") for i in (28, 30, 32))
        entry = bytearray(data[at:at + 46 + name])
        size, header = entry[24:28], entry[42:46]
        entry[20:28] = b"\xff" * 8
        entry[42:46] = b"\xff" * 4
        wide = b"\x01\x00\x18\x00" + 2 * (bytes(size) + bytes(4)) + bytes(header) + bytes(4)
        entry[30:32] = len(wide).to_bytes(2, "little")
        directory += bytes(entry) + wide
        at += 46 + name + extra + comment
    n, length, at = (v.to_bytes(8, "little") for v in (count, len(directory), start))
    record = b"PK\x06\x06" + (44).to_bytes(8, "little") + b"\x2d\0\x2d\0" + bytes(8) + n + n + length + at
    locator = b"PK\x06\x07" + bytes(4) + (start + len(directory)).to_bytes(8, "little") + b"\x01\0\0\0"
    tail = b"PK\x05\x06" + bytes(4) + b"\xff" * 12 + bytes(2)
    path.write_bytes(data[:start] + directory + record + locator + tail)
    with zipfile.ZipFile(path) as whole:
        assert whole.testzip() is None
    torch.load(path, weights_only=True)


if __name__ == "__main__":
    main()

"""Wrote the files in ``tests/golden/formats``, once, with torch 2.13.0 and safetensors 0.8.0. Never run again.

What is expected of each file comes from PyTorch itself (values by ``torch.load``, offsets by its archive reader), not
from mvc. Usage, into an empty directory: ``python -m tests.formats.make_golden DIR``.
"""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch

from mvc.formats.framework_dtypes import FRAMEWORK_NAMES

NAMES = {theirs: ours for ours, theirs in FRAMEWORK_NAMES.items()}
ALL = [
    name for name in FRAMEWORK_NAMES.values() if name not in {"complex128", "float4_e2m1fn_x2"} and hasattr(torch, name)
]


class Malicious:
    """Asks the unpickler to run a command that would leave a file behind."""

    def __reduce__(self):
        import os  # noqa: PLC0415 - the attack

        return os.system, ("touch /tmp/mvc-golden-pickle-was-run",)


def flatten(value, prefix=None):
    """Return the tensors by name, as mvc names them; written apart from mvc's own walk."""
    if isinstance(value, torch.Tensor):
        return {"tensor" if prefix is None else prefix: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    found: dict = {}
    for key, part in items:
        found |= flatten(part, str(key) if prefix is None else f"{prefix}.{key}")
    return found


def describe(path, tensors):
    """Return what is expected of the tensors of an archive."""
    reader = torch._C.PyTorchFileReader(str(path))
    offsets: dict = {}  # the offsets at which a storage with this content lies; equal storages cannot be told apart
    for key in reader.get_all_records():
        if key.startswith("data/"):
            offsets.setdefault(reader.get_record(key), []).append(reader.get_record_offset(key))
    rows = []
    for name, tensor in tensors.items():
        dtype, shape = NAMES[str(tensor.dtype).removeprefix("torch.")], list(tensor.shape)
        if dtype == "F4":
            shape[-1] = 2 * shape[-1]
        raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        distance = tensor.storage_offset() * tensor.element_size()
        first = [offset + distance for offset in offsets[bytes(tensor.untyped_storage())]] if tensor.numel() else []
        digest = hashlib.sha256(raw).hexdigest()
        rows.append({"name": name, "dtype": dtype, "shape": shape, "first": first, "sha256": digest})
    return sorted(rows, key=lambda row: row["name"])


def content(path):
    """Return what is expected of a safetensors file, as its own library reads it."""
    rows = [
        {
            "name": name,
            "dtype": part["dtype"],
            "shape": part["shape"],
            "first": [],
            "sha256": hashlib.sha256(part["data"]).hexdigest(),
        }
        for name, part in safetensors.deserialize(path.read_bytes())
    ]
    return sorted(rows, key=lambda row: row["name"])


def random(*shape, dtype=torch.float32):
    """Return a tensor of random bits of a dtype, NaN included."""
    count = int(np.prod(shape)) * torch.empty(0, dtype=dtype).element_size()
    data = torch.randint(0, 2 if dtype == torch.bool else 256, (count,), dtype=torch.uint8)
    return data.view(dtype).reshape(shape)


def nested():
    """Return a checkpoint as training loops write it."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    return {
        "epoch": 3,
        "best": float("nan"),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": [torch.get_rng_state()[:16].clone(), None, True],
        "config": {"lr": 1e-3, "layers": (1, 2), "name": "é"},
    }


def views():
    """Return tensors that are not simply a whole storage."""
    base, tiled, shared = random(6, 4), random(10, 2), random(5, 3)
    return {
        "transposed": random(4, 3).t(),
        "base": base,
        "base.row": base[2],
        "base.columns": base[:, 1:3],
        "tile.0": tiled[:4],
        "tile.1": tiled[4:],
        "partial": random(12)[3:7],
        "expanded": random(3, 1).expand(3, 5),
        "flat": shared.view(-1),
        "square": shared,
        "empty.slice": tiled[10:],
    }


def trees():
    """Return every archive by file name."""
    table = random(4, 3)
    tied = OrderedDict({"embed.weight": table, "head.weight": table.detach(), "bias": random(4)})
    plain = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2)).state_dict()
    parameters = {"p": torch.nn.Parameter(random(2, 3)), "buffer": torch.nn.Buffer(random(2))}
    every = {name: random(2, 3, dtype=getattr(torch, name)) for name in ALL}
    every |= {"complex128": random(2, dtype=torch.complex128)}
    every |= {"float4_e2m1fn_x2": random(2, 3, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)}
    return {
        "plain.pt": plain,
        "nested.ckpt": nested(),
        "tied.bin": tied,
        "views.pt": views(),
        "parameters.pth": parameters,
        "shapes.pt": {
            "scalar": random(),
            "none": random(0, 3),
            "also": random(0, dtype=torch.int8),
            "one": random(1, 1),
        },
        "dtypes.pt": every,
        "bare.pt": random(2, 2, dtype=torch.bfloat16),
        "malicious.pt": {"before": random(3), "bad": Malicious(), "after": random(2, 2)},
        "protocol4.pt": {"weight": random(3, 2), "list": [random(2), (random(1),)]},
    }


def main(directory):
    """Write all files and what is expected of them."""
    torch.manual_seed(20260101)
    expected = {}
    for name, tree in trees().items():
        path = directory / name
        torch.save(tree, path, pickle_protocol=4 if name == "protocol4.pt" else 2)
        expected[name] = describe(path, flatten(tree))
    every = {name: random(2, 4, dtype=getattr(torch, name)) for name in ALL} | {'é "quoted"\n': random(3)}
    every |= {"f4": random(2, 3, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), "0-d": random(), "none": random(4, 0)}
    safetensors.torch.save_file(every, directory / "dtypes.safetensors", metadata={"format": "pt"})
    expected["dtypes.safetensors"] = content(directory / "dtypes.safetensors")
    safetensors.torch.save_file(torch.load(directory / "plain.pt"), directory / "plain.safetensors")
    expected["plain.safetensors"] = content(directory / "plain.safetensors")

    linear = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    torch.save(linear, directory / "module.pt")
    expected["module.pt"] = describe(directory / "module.pt", flatten(linear.state_dict()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(linear).save(directory / "script.pt")
        expected["script.pt"] = describe(directory / "script.pt", flatten(linear.state_dict()))
        quantized = torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)
    torch.save({"w": random(3)}, directory / "legacy.pt", _use_new_zipfile_serialization=False)
    expected["legacy.pt"] = []
    rest = {"plain": random(3), "conjugate": random(2, dtype=torch.complex64).conj(), "quantized": quantized}
    torch.save(rest, directory / "doubts.pt")
    expected["doubts.pt"] = describe(directory / "doubts.pt", {"plain": rest["plain"]})
    (directory / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Claim: the same weights as safetensors, as a PyTorch file and as a sharded directory are stored once.

Run ``python -m benchmarks.corpus`` first, then ``python -m benchmarks.formats [--corpus DIR] [--out FILE.json]``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from platformdirs import user_cache_path

from benchmarks.cli import mvc, sha256
from benchmarks.corpus import as_pt, as_sharded
from benchmarks.report import print_table, write_json


def measure(checkpoint: Path) -> list[dict[str, object]]:
    """Commit the weights of a checkpoint in three formats, and return what each added to the store."""
    forms = {
        "model.safetensors": checkpoint / "model.safetensors",
        "pytorch_model.bin": as_pt(checkpoint) / "pytorch_model.bin",
        "sharded safetensors": as_sharded(checkpoint),
    }
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "repository"
        root.mkdir()
        mvc(root, "init")
        for place, (name, path) in enumerate(forms.items()):
            done = mvc(root, "commit", "--from", str(path), "--as", f"form-{place}", "-m", name)
            back = Path(temporary) / f"out-{place}"
            mvc(root, "checkout", done["commit"], "--to", str(back), f"form-{place}")
            files = sorted(file for file in ([path] if path.is_file() else path.iterdir()) if file.is_file())
            equal = all(sha256(file) == sha256(back / f"form-{place}" / file.name) for file in files)
            new, stored = done["new_tensors"], done["stored_bytes"]
            size = sum(file.stat().st_size for file in files)
            rows.append({"form": name, "bytes": size, "new tensors": new, "stored": stored, "sha256 equal": equal})
    return rows


def main() -> None:
    """Measure the first epoch of the MiniLM family."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", type=Path, default=user_cache_path("mvc") / "corpus")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/formats.json"))
    options = parser.parse_args()
    rows = measure(options.corpus / "minilm-fortunes" / "epoch-1")
    print_table(rows)
    write_json(options.out, "formats", {"one model, three formats": rows})


if __name__ == "__main__":
    main()

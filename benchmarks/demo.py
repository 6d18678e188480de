"""The main job, as a user would type it: fine-tune a real model, commit every epoch, get any of them back.

The first run trains MiniLM (22.7 M parameters) for three epochs, which takes a few minutes; later runs reuse it.
``make demo`` sets up everything and runs this.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from platformdirs import user_cache_path

from benchmarks.cli import sha256
from benchmarks.corpus import MiniLM, build, cast

EPOCHS = 3
STEPS = 60  # an epoch: enough to move every weight as a fine-tune does, short enough to wait for
WEIGHTS = "model.safetensors"


def say(text: str) -> None:
    """Print a headline."""
    print(f"\n==> {text}", flush=True)


def mvc(root: Path, *arguments: str) -> None:
    """Show a command as a user would type it, and run it."""
    shown = " ".join(f"'{word}'" if " " in word else word for word in arguments)
    print(f"\n$ mvc {shown}", flush=True)
    subprocess.run([sys.executable, "-m", "mvc", "-C", str(root), *arguments], check=True)


def save(checkpoint: Path, root: Path) -> None:
    """Write a checkpoint into the work tree, as a trainer does after an epoch."""
    for name in (WEIGHTS, "trainer_state.json", "config.json"):
        if (checkpoint / name).exists():
            shutil.copyfile(checkpoint / name, root / name)
    print(f"(the trainer writes {checkpoint.name}: {(root / WEIGHTS).stat().st_size / 1e6:.1f} MB of weights)")


def metrics(checkpoint: Path) -> list[str]:
    """Return the options that record what the trainer measured."""
    state = checkpoint / "trainer_state.json"
    found = json.loads(state.read_text(encoding="utf-8")) if state.exists() else {}
    return [word for key in ("epoch", "loss") if key in found for word in ("--metric", f"{key}={found[key]:.4g}")]


def run(root: Path, checkpoints: list[Path]) -> bool:
    """Commit every checkpoint, branch, check out, and compare; return whether all came back."""
    mvc(root, "init")
    for checkpoint in checkpoints:
        save(checkpoint, root)
        mvc(root, "commit", "-m", checkpoint.name, *metrics(checkpoint))
    say("A branch from an earlier epoch, with the weights in bf16")
    mvc(root, "switch", "-c", "half", "main~1")
    save(cast(checkpoints[-2], "bf16"), root)
    mvc(root, "commit", "-m", "cast to bf16")
    mvc(root, "switch", "main")
    say("What is there, and what it costs")
    mvc(root, "log", "--graph", "--all", "--oneline")
    mvc(root, "du")
    say("Every epoch back, byte for byte")
    found = [came_back(root, place, checkpoint) for place, checkpoint in enumerate(reversed(checkpoints))]
    return all(found)


def came_back(root: Path, steps: int, checkpoint: Path) -> bool:
    """Check out ``main~steps`` elsewhere and compare its weights with what the trainer wrote."""
    with tempfile.TemporaryDirectory() as target:
        start = time.perf_counter()
        mvc(root, "checkout", f"main~{steps}", "--to", target)
        seconds = time.perf_counter() - start
        equal = sha256(Path(target) / WEIGHTS) == sha256(checkpoint / WEIGHTS)
    print(f"{checkpoint.name}: {'the same SHA-256' if equal else 'DIFFERENT'}, after {seconds:.1f} s")
    return equal


def main() -> None:
    """Train if need be, then show."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cache", type=Path, default=user_cache_path("mvc") / "demo")
    parser.add_argument("--directory", type=Path, default=Path("demo-run"))
    options = parser.parse_args()
    say(f"Fine-tuning MiniLM for {EPOCHS} epochs of {STEPS} steps (a few minutes once; kept in {options.cache})")
    checkpoints = build(MiniLM(), options.cache, EPOCHS, STEPS, set(), lambda text: print(text, flush=True))
    say(f"A repository in {options.directory}")
    shutil.rmtree(options.directory, ignore_errors=True)
    options.directory.mkdir(parents=True)
    equal = run(options.directory.resolve(), checkpoints)
    mvc(options.directory.resolve(), "fsck")
    say("All epochs came back exactly." if equal else "An epoch did NOT come back.")
    raise SystemExit(0 if equal else 1)


if __name__ == "__main__":
    main()

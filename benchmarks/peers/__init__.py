"""Peer coders that benchmarks measure `mvc` against, one module each, behind `Coder`.

docs/decisions/007 says which were taken and how they are set up.
"""

from __future__ import annotations

from benchmarks.peers.abc import Coder, Stored, TensorCoder, UnsupportedError
from benchmarks.peers.deltatensors import DeltaTensors
from benchmarks.peers.moonclip import Moonclip, MoonclipDelta
from benchmarks.peers.openzl import OpenZL
from benchmarks.peers.xet import Xet
from benchmarks.peers.zipnn import ZipNN
from benchmarks.peers.zstd import PlanesZstd, XorPlanesZstd, Zstd, ZstdAllCores

__all__ = ["PEERS", "Coder", "Stored", "TensorCoder", "UnsupportedError"]

PEERS: tuple[type[Coder], ...] = (
    Zstd,
    ZstdAllCores,
    PlanesZstd,
    Xet,
    ZipNN,
    OpenZL,
    Moonclip,
    XorPlanesZstd,
    MoonclipDelta,
    DeltaTensors,
)
"""In the order of tables."""

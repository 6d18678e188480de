"""What a training script or a server needs to use checkpoints that are more than a state dict: plain PyTorch, no store."""

from __future__ import annotations

from mvc.runtime.attaching import attach

__all__ = ["attach"]

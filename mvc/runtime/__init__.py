"""What a script needs to use checkpoints that are more than a state dict: plain PyTorch, and nothing of the store."""

from __future__ import annotations

from mvc.runtime.attaching import attach, merge

__all__ = ["attach", "merge"]

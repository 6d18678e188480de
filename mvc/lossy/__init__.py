"""Tensor to tensor: methods that lose something, and say how much. What they return is new content, with its own id."""

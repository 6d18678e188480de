"""Immutable objects: their canonical bytes, their ids, and the envelope of blobs."""

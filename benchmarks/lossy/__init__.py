"""Measurements of lossy methods on real weights."""

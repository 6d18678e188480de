"""Benchmarks of derived models."""

"""Benchmarks of what loses something: sizes, and what the model still can."""

"""Verbs on a repository: one use case per file, planning apart from doing."""

"""Benchmarks and the soak: see README.md of this folder."""

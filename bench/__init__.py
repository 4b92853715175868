"""Benchmarks on a real PostgreSQL. See README.md."""

"""Benchmarks of gradscope; each is run as ``python -m benchmarks.<name>``."""

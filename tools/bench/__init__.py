"""Benchmarks: ours beside a limit, beside peers, and beside another checkout of this project."""

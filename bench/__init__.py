"""Benchmarks: each prints a table whose figures come from one run."""

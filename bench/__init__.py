"""Benchmarks: one question per file, each file a command (`python -m bench.NAME`)."""

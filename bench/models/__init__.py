"""The models that tests and benchmarks share: fetched from packages, or generated."""

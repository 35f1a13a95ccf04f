"""Measuring: interleaved rounds, ratios with intervals, accuracy against references, rivals at equal terms."""

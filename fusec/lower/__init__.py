"""Lowering: fused groups become tile programs by inlining index expressions."""

"""Tiling: which kernels a tile program may run as. Only choices are made here; the emitters carry them out."""

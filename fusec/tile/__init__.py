"""Tile programs: what a fused group computes, as text, checked, and run with numpy."""

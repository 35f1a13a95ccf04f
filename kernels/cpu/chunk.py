"""How many rows of a product take turns at a panel of B: what emitters, tilings and fusion must agree about."""

from __future__ import annotations

CHUNK_ROWS = 198
"""Rows that share a panel before the next one is read, where A stays in the second level cache: whole register tiles of 1, 2,
3, 6, 9 or 11 rows. For images, the pixels of a task."""

"""What the kernel templates take: the map, row program, contraction and chain that fused groups become."""

from __future__ import annotations

from fusec.kernels.templates.accepts import accepts

__all__ = ["accepts"]

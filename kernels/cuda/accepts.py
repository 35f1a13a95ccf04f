"""Which tilings the CUDA templates take: asked of plans that were read from files, before anything is emitted for them."""

from __future__ import annotations

from fusec.errors import FusecError
from fusec.kernels.cpu.contract_form import contraction
from fusec.kernels.cuda.emit import NESTS
from fusec.kernels.cuda.product import TEMPLATES as PRODUCTS
from fusec.kernels.cuda.product_shapes import shape_of
from fusec.kernels.kernel import StageTiling
from fusec.tile.program import Stage


def refusal(stage: Stage, tiling: StageTiling) -> str:
    """Why a stage cannot be emitted with a tiling; empty where it can."""
    if tiling.template in NESTS:
        return _nest(stage, tiling)
    if tiling.template in PRODUCTS:
        return _product(stage, tiling)
    return "there is no such template for CUDA"


def _nest(stage: Stage, tiling: StageTiling) -> str:
    if tiling.lane and tiling.lane not in {*stage.axis_names, *(a.name for a in stage.folds)}:
        return f"it has no axis {tiling.lane!r}"
    if (tiling.rows, tiling.vectors) != (1, 1):
        return f"a nest has no block tiles, this one is {tiling.rows} by {tiling.vectors}"
    if tiling.template != "points" and not stage.folds:
        return "there is no fold to share"
    return ""


def _product(stage: Stage, tiling: StageTiling) -> str:
    form = contraction(stage)
    if form is None:
        return "it is no matrix product"
    if tiling.lane and tiling.lane != form.n:
        return f"its columns are {form.n!r}, not {tiling.lane!r}"
    try:
        shape_of(form, tiling)
    except (FusecError, KeyError):
        return f"there is no block tile of {tiling.rows} by {tiling.vectors} for {form.dtype}"
    return ""

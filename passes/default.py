"""The order of the passes. Each line says why it stands where it stands."""

from __future__ import annotations

from fusec.ir.graph import Graph
from fusec.passes.fusion.fuse_chain import fuse_chain
from fusec.passes.fusion.fuse_epilogue import fuse_epilogue
from fusec.passes.fusion.fuse_pointwise import fuse_pointwise
from fusec.passes.fusion.fuse_prologue import fuse_prologue
from fusec.passes.fusion.fuse_rows import fuse_rows
from fusec.passes.fusion.fuse_views import fuse_views
from fusec.rewrite.fused import FusedGraph
from fusec.rewrite.fusion import Accepts, FusionPass, accept_all, fuse
from fusec.rewrite.graph_pass import PassContext
from fusec.rewrite.pipeline import Pipeline, Selection, run_pipeline, select, select_plain

GRAPH_PASSES: Pipeline = ()
FUSION_PASSES: tuple[FusionPass, ...] = (
    fuse_pointwise,  # first: diamonds of elementwise nodes become one consumer before anything asks who else reads them
    fuse_epilogue,  # before rows: a residual add costs nothing on a contraction's tile, and a load on a row's
    fuse_rows,  # before views: a reduction takes the pointwise work that would otherwise join into kernels of its own
    fuse_views,  # what is left of the pointwise work swallows the views and gathers around it
    fuse_prologue,  # after views: whole chains of views become the index of one operand
    fuse_chain,  # last: two finished contractions with all their pointwise work
)


def optimise(graph: Graph, context: PassContext) -> Graph:
    """Run the default passes over the graph, as the context's selection changes them."""
    return run_pipeline(graph, select(GRAPH_PASSES, Selection.of(context.selection)), context)


def fuse_default(graph: Graph, context: PassContext, accepts: Accepts = accept_all) -> FusedGraph:
    """Fuse with the default rules, as the context's selection changes them."""
    rules = select_plain(FUSION_PASSES, Selection.of(context.selection), FusionPass)
    return fuse(graph, rules, context, accepts)

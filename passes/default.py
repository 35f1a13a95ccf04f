"""The order of the passes. Each line says why it stands where it stands."""

from __future__ import annotations

from fusec.ir.graph import Graph
from fusec.rewrite.fused import FusedGraph
from fusec.rewrite.fusion import Accepts, FusionPass, accept_all, fuse
from fusec.rewrite.graph_pass import PassContext
from fusec.rewrite.pipeline import Pipeline, Selection, run_pipeline, select, select_plain

GRAPH_PASSES: Pipeline = ()
FUSION_PASSES: tuple[FusionPass, ...] = ()


def optimise(graph: Graph, context: PassContext) -> Graph:
    """Run the default passes over the graph, as the context's selection changes them."""
    return run_pipeline(graph, select(GRAPH_PASSES, Selection.of(context.selection)), context)


def fuse_default(graph: Graph, context: PassContext, accepts: Accepts = accept_all) -> FusedGraph:
    """Fuse with the default rules, as the context's selection changes them."""
    rules = select_plain(FUSION_PASSES, Selection.of(context.selection), FusionPass)
    return fuse(graph, rules, context, accepts)

"""The order of the passes. Each line says why it stands where it stands."""

from __future__ import annotations

from fusec.ir.graph import Graph
from fusec.kernels.templates.accepts import accepts_group
from fusec.passes.fusion.fuse_chain import fuse_chain
from fusec.passes.fusion.fuse_conv_chain import fuse_conv_chain
from fusec.passes.fusion.fuse_epilogue import fuse_epilogue
from fusec.passes.fusion.fuse_pointwise import fuse_pointwise
from fusec.passes.fusion.fuse_prologue import fuse_prologue
from fusec.passes.fusion.fuse_rows import fuse_rows
from fusec.passes.fusion.fuse_scatter import fuse_scatter
from fusec.passes.fusion.fuse_views import fuse_views
from fusec.passes.graph.canonicalise_activations import canonicalise_activations
from fusec.passes.graph.canonicalise_attention import canonicalise_attention
from fusec.passes.graph.canonicalise_gelu import canonicalise_gelu
from fusec.passes.graph.canonicalise_norms import canonicalise_norms
from fusec.passes.graph.canonicalise_softmax import canonicalise_softmax
from fusec.passes.graph.channels_first import channels_first
from fusec.passes.graph.channels_last import channels_last
from fusec.passes.graph.choose_winograd import choose_winograd
from fusec.passes.graph.eliminate_dead import eliminate_dead
from fusec.passes.graph.fold_batch_norm import fold_batch_norm
from fusec.passes.graph.fold_constants import fold_constants
from fusec.passes.graph.fold_padding import fold_padding
from fusec.passes.graph.gather_first import gather_first
from fusec.passes.graph.merge_matmuls import merge_matmuls
from fusec.passes.graph.roll_lstm import roll_lstm
from fusec.passes.graph.share_common import share_common
from fusec.passes.graph.simplify_algebra import simplify_algebra
from fusec.passes.graph.simplify_views import simplify_views
from fusec.passes.graph.sink_reshapes import sink_reshapes
from fusec.passes.graph.specialise_attention import specialise_attention
from fusec.rewrite.fused import FusedGraph
from fusec.rewrite.fusion import Accepts, FusionPass, fuse
from fusec.rewrite.graph_pass import PassContext
from fusec.rewrite.pipeline import FixPoint, Pipeline, Selection, run_pipeline, select, select_plain

GRAPH_PASSES: Pipeline = (
    FixPoint(
        "canonicalise",  # a loop, for a pattern that was found leaves dead nodes, constants and new neighbours behind
        (
            eliminate_dead,  # first: nothing below should look at what nobody reads
            fold_constants,  # patterns ask for constants, and shape arithmetic becomes such
            gather_first,  # after folding: what is left of a table was too large to fold
            simplify_algebra,  # fewer spellings for the patterns below
            simplify_views,  # after algebra: what a removed node stood between may now be one view
            share_common,  # patterns ask whether two operands are the same value
            fold_batch_norm,  # before activations: a folded norm leaves the contraction next to its activation
            canonicalise_norms,  # before softmax, for both begin with a reduction and this is the longer pattern
            canonicalise_softmax,  # before attention, which is made of one
            canonicalise_gelu,  # before the other activations: it contains an erf or a tanh that they could take
            canonicalise_activations,
            canonicalise_attention,  # late: its operands' views and scales have their final form
            specialise_attention,  # after it, for it looks at nothing else
            roll_lstm,  # last: its gates are activations by now
        ),
    ),
    FixPoint(
        "choose-layouts",  # patterns were found in the model's own layout; what surrounds a convolution comes closer now
        (
            channels_last,
            eliminate_dead,
            fold_constants,  # weights are permuted, and so are the constants that transposes moved past
            simplify_algebra,
            simplify_views,
            share_common,
            fold_batch_norm,  # no transpose is between a convolution and its norm any more
            fold_padding,  # nor between it and its border
            sink_reshapes,  # here, for the patterns above know only the model's own places of reshapes
        ),
    ),
    FixPoint(
        "choose-algorithms",  # when nothing changes any more: norms are in the weights, layouts are settled
        (
            choose_winograd,
            channels_first,  # after it: transforms take their own images
            fold_constants,  # transforms and transposes the weights
        ),
    ),
)
OPTIONAL_PASSES = (
    merge_matmuls,  # on a CPU it only saves loads of the left operand, and the slices cost affine indices everywhere
)
FUSION_PASSES: tuple[FusionPass, ...] = (
    fuse_pointwise,  # first: diamonds of elementwise nodes become one consumer before anything asks who else reads them
    fuse_epilogue,  # before rows: a residual add costs nothing on a contraction's tile, and a load on a row's
    fuse_rows,  # before views: a reduction takes the pointwise work that would otherwise join into kernels of its own
    fuse_scatter,  # before views, which would join what goes into a scatter with its other readers
    fuse_views,  # what is left of the pointwise work swallows the views and gathers around it
    fuse_prologue,  # after views: whole chains of views become the index of one operand
    fuse_chain,  # last: two finished contractions with all their pointwise work
    fuse_conv_chain,  # likewise
)


def optimise(graph: Graph, context: PassContext) -> Graph:
    """Run the default passes over the graph, as the context's selection changes them."""
    graph = run_pipeline(graph, select(GRAPH_PASSES, Selection.of(context.selection)), context)
    context.trace.dump("optimised", "graph", lambda: str(graph))
    return graph


def fuse_default(graph: Graph, context: PassContext, accepts: Accepts = accepts_group) -> FusedGraph:
    """Fuse with the default rules, as the context's selection changes them."""
    rules = select_plain(FUSION_PASSES, Selection.of(context.selection), FusionPass)
    fused = fuse(graph, rules, context, accepts)
    context.trace.dump("fused", "fused", lambda: str(fused))
    return fused

"""The importer's table: one file per family, each a list of rows that turn an ONNX node into native nodes."""

from __future__ import annotations

from fusec.frontend.table import (  # noqa: F401  # each fills ROWS when it is imported
    classical,
    contract,
    contrib_attention,
    convolve,
    convolve_transpose,
    elementwise,
    gather,
    grouped_query,
    known_ops,
    loss,
    normalise,
    order,
    pool,
    quantise,
    quantise_contrib,
    quantised_lstm,
    recurrent,
    reduce,
    resize,
    sample,
    scatter,
    spectrum,
    transformer,
    trees,
    view,
)

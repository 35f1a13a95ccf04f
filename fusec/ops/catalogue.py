"""The catalogue: imports every family of ops, and finds the ops of installed packages (entry points `fusec.ops`).

An entry point names an op and says where it is declared: `softsign = "fusec_extra.ops"`, a module that registers its ops
when it is imported, or `"fusec_extra.ops:softsign"`, an Op. Names are listed without importing anything; a package is
imported when one of its names is asked for. A name that two packages, or a package and fusec itself, declare is an error.
"""

from __future__ import annotations

from fusec.ops import (
    activations,
    contract,
    convolve,
    elementwise,
    gather,
    normalize,
    opaque,
    ordered,
    recurrent,
    reduce,
    scatter,
    view,
    winograd,
)
from fusec.ops.op import Op, declared, register
from fusec.plug_ins import PlugIns

FAMILIES = (
    elementwise,
    activations,
    view,
    reduce,
    normalize,
    contract,
    convolve,
    gather,
    scatter,
    recurrent,
    ordered,
    opaque,
    winograd,
)
PLUG_INS = PlugIns("fusec.ops", "op", own=frozenset(declared()))


def load_plug_in(name: str) -> None:
    """Import the package that declares an op, so that the op is registered. UsageError naming the package if it fails."""
    found = PLUG_INS.load(name)
    if isinstance(found, Op) and found.name not in declared():
        register(found)
    if name not in declared():
        raise PLUG_INS.broken_promise(name, "register it with fusec.ops.op.register in that module")

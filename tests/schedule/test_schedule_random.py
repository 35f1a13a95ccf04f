"""Random regions of fake kernels: whatever is planned is proved, and runs right under an adversary."""

from __future__ import annotations

import random
from unittest.mock import patch

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schedule_fakes import (
    ADD,
    CELL,
    CROSSED,
    CUMSUM,
    FLIP,
    MAP,
    PIECE,
    PRODUCT,
    ROWS,
    SCAN,
    STATE,
    UPDATE,
    Builder,
    agrees,
    cost,
    execute,
    sequential,
)  # fmt: skip

from fusec.schedule import stretches
from fusec.schedule.bind import schedule_region
from fusec.schedule.schedule import Schedule
from fusec.schedule.tasks import Grain


@st.composite
def builders(draw) -> Builder:
    """A few calls, each on random earlier values, aliases included."""
    b = Builder()
    shapes = {b.input("x0", draw(st.integers(1, 6)), draw(st.integers(1, 6))): None}
    shapes["x0"] = b.values["x0"].shape
    for i in range(draw(st.integers(1, 9))):
        x = draw(st.sampled_from(sorted(shapes)))
        r, c = shapes[x]
        tile = {"r": draw(st.integers(1, 4)), "c": draw(st.integers(1, 4)), "t": draw(st.integers(1, 3))}
        y = f"v{i}"
        kind = draw(
            st.sampled_from(
                [
                    "map",
                    "rows",
                    "flip",
                    "product",
                    "add",
                    "concat",
                    "update",
                    "scan",
                    "cumsum",
                    "crossed",
                    "state",
                    "cell",
                    "alias",
                ]
            )
        )
        if kind == "alias":
            b.alias(y, x, c, r)
            shapes[y] = (c, r)
            continue
        shape = {"flip": (c, r), "product": (r, r), "concat": (r, 2 * c)}.get(kind, (r, c))
        if kind == "update":
            b.call(UPDATE, {"x": x, "y": b.input(y, r + 2, c)}, {"R": r, "C": c, "T": r + 2, "O": 1}, r=tile["r"])
            b.call(UPDATE, {"x": x, "y": y}, {"R": r, "C": c, "T": r + 2, "O": 2}, r=tile["r"], c=tile["c"])
            shapes[y] = (r + 2, c)
            continue
        if kind in ("state", "cell"):
            shapes[y] = (2, c) if kind == "state" else (1, c)
            b.input(y, *shapes[y])
            p, name = (STATE, "h") if kind == "state" else (CELL, "s")
            b.call(p, {"x": x, name: y}, {"T": r, "C": c}, t=1, c=tile["c"])
            continue
        b.value(y, *shape)
        shapes[y] = shape
        rc, rt = {"R": r, "C": c}, {"R": r, "T": c}
        rows, columns, one = {"r": tile["r"]}, {"r": tile["r"], "c": tile["c"]}, {"r": tile["r"], "t": 1}
        match kind:
            case "map":
                b.call(MAP, {"x": x, "y": y}, rc, **columns)
            case "rows":
                b.call(ROWS, {"x": x, "y": y}, rc, **rows)
            case "flip":
                b.call(FLIP, {"x": x, "y": y}, rc, **columns)
            case "add":
                z = draw(st.sampled_from(sorted(n for n, s in shapes.items() if s == (r, c) and n != y)))
                b.call(ADD, {"x": x, "z": z, "y": y}, rc, **columns)
            case "product":
                flipped = b.value(f"{y}t", c, r)
                b.call(FLIP, {"x": x, "y": flipped}, rc, **columns)
                b.call(PRODUCT, {"a": x, "b": flipped, "y": y}, {"R": r, "K": c, "C": r}, **columns)
            case "concat":
                for o in (0, c):
                    b.call(PIECE, {"x": x, "y": y}, {**rc, "T": 2 * c, "O": o}, **rows)
            case "scan":
                b.call(SCAN, {"x": x, "y": y}, {"T": r, "C": c}, t=1, c=tile["c"])
            case "cumsum":
                b.call(CUMSUM, {"x": x, "y": y}, rt, r=tile["r"], t=tile["t"])
            case "crossed":
                b.call(CROSSED, {"x": x, "y": y}, rt, **one)
    made = sorted(n for n in shapes if n.startswith("v"))
    b.outputs = tuple(draw(st.lists(st.sampled_from(made), min_size=1, unique=True)))
    return b


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    builders(),
    st.sampled_from([1, 2, 3, 7]),
    st.sampled_from([0.5, 3.0, 9.0]),
    st.booleans(),
    st.sampled_from([0, 1]),
    st.integers(0, 1 << 30),
)
def test_random_regions_run_right(builder, workers, us, tight, far, seed):
    region = builder.bind()
    if not region.calls:
        return
    grain = Grain(per_worker=3, least=1.0)
    with patch.object(stretches, "BAND", 16), patch.object(stretches, "FLOPS_PER_BYTE", 1e9):
        s = schedule_region(region, workers, cost(us), grain=grain, tight=tight, far=far)
    assert s.arena >= s.arena_bound
    truth = sequential(region)
    for x in range(3):
        assert agrees(region, execute(region, s, random.Random(seed + x)), truth)
    again = Schedule.from_arrays(s.to_arrays())
    assert str(again) == str(s)
    assert all(np.array_equal(a, b) for a, b in zip(again.to_arrays().values(), s.to_arrays().values()))

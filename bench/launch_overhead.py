"""What does Session.run add to the bare foreign call? `python -m bench.launch_overhead`: interleaved rounds, one process.

The bare call repeats one run on a frame whose inputs and outputs are set already; the difference is what Python does per
inference: looking at the feeds, finding the plan of these shapes, allocating the outputs. The same bare call measured
twice in each round shows the noise.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

import fusec
from bench.machine import machine
from fusec.measure.rounds import Samples, measure
from fusec.runtime.frame import place
from fusec.runtime.session import Session

LIMIT_US = 5.0
"""What one input and one output may cost."""


def relu_model(inputs: int) -> bytes:
    """`inputs` independent Relu nodes over 16 elements: next to no work, so the call itself is what is timed."""
    names = [(f"x{i}", f"y{i}") for i in range(inputs)]
    graph = helper.make_graph(
        [helper.make_node("Relu", [x], [y]) for x, y in names],
        "relu",
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, [1, 16]) for x, _ in names],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, [1, 16]) for _, y in names],
    )
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def bare_call(session: Session, feeds: dict[str, Any]) -> Callable[[], int]:
    """One foreign call with everything around it done beforehand."""
    session.run(feeds)
    binding = session.binding_of(feeds)
    frame = binding.take()
    arrays = [feeds[n] for n in binding.inputs] + [np.empty(shape, dtype) for shape, dtype in binding.fresh]
    for i, array in enumerate(arrays):
        frame.io[i] = place(array)
    run, address = binding.driver.run, frame.address

    def call() -> int:
        assert frame, arrays  # what the driver points at must live as long as this function
        return run(address)

    return call


def main() -> None:
    """Print medians and what is added, and fail where it is too much."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    for inputs in (1, 2, 4):
        session = fusec.compile(relu_model(inputs), threads=1)
        feeds = {v.name: np.ones((1, 16), np.float32) for v in session.inputs}
        call = bare_call(session, feeds)
        samples = measure(
            {
                "bare": call,
                "bare again": call,
                "run": lambda s=session, f=feeds: s.run(f),  # type: ignore[misc]
                "run_list": lambda s=session, f=feeds: s.run_list(f),  # type: ignore[misc]
            },
            rounds=options.rounds,
        )
        rows.append({"inputs": inputs, **summary(samples)})
    if options.json:
        print(json.dumps({"machine": machine(), "rows": rows}, indent=1))
    else:
        print(f"microseconds per call, medians of {options.rounds} rounds; added = run - bare, paired by round")
        for row in rows:
            print("  ".join(f"{k} {v:.2f}" if isinstance(v, float) else f"{v} in, {v} out:" for k, v in row.items()))
    if rows[0]["added"] > LIMIT_US:
        raise SystemExit(f"one input and one output cost {rows[0]['added']:.2f} us, more than {LIMIT_US}")


def summary(samples: Samples) -> dict[str, float]:
    """Medians in microseconds, and the paired difference with its quartiles."""
    micro = {n: samples.row(n) * 1e6 for n in samples.names}
    added = micro["run"] - micro["bare"]
    low, middle, high = np.percentile(added, [25, 50, 75])
    medians = {n.replace(" ", "_"): float(np.median(v)) for n, v in micro.items()}
    return medians | {"added": float(middle), "added_q1": float(low), "added_q3": float(high)}


if __name__ == "__main__":
    main()

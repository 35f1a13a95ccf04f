"""Attention beside onnxruntime: the standard shapes, causal, masked, grouped heads and decoding.

    python -m bench.attention [--threads 1,2] [--rounds 20] [--save FILE.json] [NAME ...]

onnxruntime gets every way it has to compute a case: the graph written out, the Attention operator of the standard, and its
own MultiHeadAttention or GroupQueryAttention; the fastest in this run is what a ratio is against. Outputs are compared first.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

import fusec
from bench.machine import machine
from bench.records import ratio_text
from bench.store import save_records
from fusec.cli.text import print_table
from fusec.measure.rivals import onnxruntime_session
from fusec.measure.rounds import geometric_mean, measure


@dataclass(frozen=True)
class Case:
    """Batch, query heads, key heads, queries, positions, size of a head."""

    name: str
    b: int
    h: int
    kv: int
    t: int
    s: int
    d: int
    causal: bool = False
    masked: bool = False

    @property
    def flops(self) -> float:
        """Operations of both products; half of them where the diagonal hides half."""
        return 4.0 * self.b * self.h * self.t * self.s * self.d * (0.5 if self.causal and self.t > 1 else 1.0)


CASES = (
    Case("bert_128", 1, 12, 12, 128, 128, 64),
    Case("bert_128_masked", 1, 12, 12, 128, 128, 64, masked=True),
    Case("vit_197", 1, 12, 12, 197, 197, 64),
    Case("self_512", 1, 12, 12, 512, 512, 64),
    Case("self_1024", 1, 12, 12, 1024, 1024, 64),
    Case("self_2048", 1, 12, 12, 2048, 2048, 64),
    Case("causal_512", 1, 12, 12, 512, 512, 64, causal=True),
    Case("causal_1024", 1, 12, 12, 1024, 1024, 64, causal=True),
    Case("causal_2048", 1, 12, 12, 2048, 2048, 64, causal=True),
    Case("grouped_512", 1, 16, 4, 512, 512, 64, causal=True),
    Case("decode_1024", 1, 12, 12, 1, 1024, 64),
    Case("decode_grouped_1024", 1, 16, 4, 1, 1024, 64),
    Case("decode_4096", 1, 12, 12, 1, 4096, 64),
)


def feeds(c: Case) -> dict[str, Any]:
    """Seeded inputs: q, k, v as [batch, heads, sequence, size], and the mask where there is one."""
    rng = np.random.default_rng(0)
    shapes = {"q": (c.b, c.h, c.t, c.d), "k": (c.b, c.kv, c.s, c.d), "v": (c.b, c.kv, c.s, c.d)}
    out = {n: rng.standard_normal(s, dtype=np.float32) for n, s in shapes.items()}
    if c.masked:
        out["mask"] = np.where(rng.random((c.b, 1, c.t, c.s)) < 0.8, np.float32(0), np.float32(-np.inf))
    return out


def model(c: Case, form: str) -> bytes:
    """A case as `form`: "graph", "standard" or "contrib"."""
    arrays = feeds(c)
    nodes, domains = {"graph": _graph, "standard": _standard, "contrib": _contrib}[form](c)
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in arrays.items()]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, (c.b, c.h, c.t, c.d))]
    weights = [
        helper.make_tensor("scale", TensorProto.FLOAT, [], [c.d**-0.5]),
        helper.make_tensor("low", TensorProto.FLOAT, [], [-3.4028235e38]),
        helper.make_tensor("wide", TensorProto.INT64, [5], [c.b, c.kv, c.h // c.kv, c.s, c.d]),
        helper.make_tensor("heads", TensorProto.INT64, [4], [c.b, c.h, c.s, c.d]),
        helper.make_tensor("flat_q", TensorProto.INT64, [3], [c.b, c.t, c.h * c.d]),
        helper.make_tensor("split_q", TensorProto.INT64, [4], [c.b, c.t, c.h, c.d]),
        helper.make_tensor("two", TensorProto.INT64, [1], [2]),
        onnx.numpy_helper.from_array(np.tril(np.ones((c.t, c.s), np.bool_)), "seen"),
    ]
    used = {i for n in nodes for i in n.input}
    graph = helper.make_graph(nodes, c.name, inputs, outputs, [w for w in weights if w.name in used])
    opsets = [helper.make_opsetid(d, v) for d, v in {"": 23, **domains}.items()]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=11)
    return bytes(made.SerializeToString())


def _graph(c: Case) -> tuple[list[onnx.NodeProto], dict[str, int]]:
    nodes, k, v = [], "k", "v"
    if c.kv != c.h:
        for x in "kv":
            nodes += [
                helper.make_node("Unsqueeze", [x, "two"], [x + "1"]),
                helper.make_node("Expand", [x + "1", "wide"], [x + "2"]),
                helper.make_node("Reshape", [x + "2", "heads"], [x + "3"]),
            ]
        k, v = "k3", "v3"
    nodes += [
        helper.make_node("Transpose", [k], ["kt"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q", "kt"], ["a"]),
        helper.make_node("Mul", ["a", "scale"], ["scores"]),
    ]
    at = "scores"
    if c.causal and c.t > 1:
        nodes.append(helper.make_node("Where", ["seen", at, "low"], ["hidden"]))
        at = "hidden"
    if c.masked:
        nodes.append(helper.make_node("Add", [at, "mask"], ["masked"]))
        at = "masked"
    nodes += [helper.make_node("Softmax", [at], ["p"], axis=-1), helper.make_node("MatMul", ["p", v], ["y"])]
    return nodes, {}


def _standard(c: Case) -> tuple[list[onnx.NodeProto], dict[str, int]]:
    inputs = ["q", "k", "v", *(["mask"] if c.masked else [])]
    return [helper.make_node("Attention", inputs, ["y"], is_causal=int(c.causal and c.t > 1))], {}


def _contrib(c: Case) -> tuple[list[onnx.NodeProto], dict[str, int]]:
    """onnxruntime's own operator wants queries as [batch, sequence, width]; keys and values may come as a cache does."""
    nodes = [
        helper.make_node("Transpose", ["q"], ["q1"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["q1", "flat_q"], ["q2"]),
        helper.make_node(
            "MultiHeadAttention", ["q2", "k", "v", "", "", "mask" if c.masked else ""], ["o"], domain="com.microsoft",
            num_heads=c.h, unidirectional=int(c.causal and c.t > 1),
        ),
        helper.make_node("Reshape", ["o", "split_q"], ["o1"]),
        helper.make_node("Transpose", ["o1"], ["y"], perm=[0, 2, 1, 3]),
    ]  # fmt: skip
    return nodes, {"com.microsoft": 1}


def rivals(c: Case, arrays: dict[str, Any], threads: int) -> dict[str, Callable[[], Any]]:
    """Every form that onnxruntime takes."""
    out: dict[str, Callable[[], Any]] = {}
    for form in ("graph", "standard", "contrib"):
        if form == "contrib" and c.kv != c.h:
            continue
        try:
            session = onnxruntime_session(model(c, form), threads)
            session.run(None, arrays)
        except Exception as e:
            print(f"  {c.name}: onnxruntime refuses {form}: {str(e)[:120]}", file=sys.stderr)
            continue
        out[form] = lambda s=session: s.run(None, arrays)
    return out


def row(c: Case, threads: int, rounds: int, passes: str = "") -> dict[str, Any]:
    """One case: the best form of onnxruntime against ours, and our rate."""
    arrays = feeds(c)
    session = fusec.compile(model(c, "graph"), threads=threads, passes=passes)
    subjects: dict[str, Callable[[], Any]] = rivals(c, arrays, threads)
    (got,) = session.run_list(arrays, ["y"])
    want = next(iter(subjects.values()))()[0] if subjects else got
    if not np.allclose(got, want, rtol=1e-4, atol=1e-4):
        raise SystemExit(f"{c.name}: differs from onnxruntime by {np.abs(got - want).max()}")
    subjects["fusec"] = lambda: session.run_list(arrays, ["y"])
    samples = measure(subjects, rounds=rounds, warmup_seconds=0.1)
    best = min((n for n in subjects if n != "fusec"), key=lambda n: samples.percentile(n, 50))
    ours = samples.percentile("fusec", 50)
    return {
        "case": c.name,
        "threads": threads,
        "fusec_us": ours * 1e6,
        "gflops": c.flops / ours * 1e-9,
        "best_rival": best,
        "rivals_us": {n: samples.percentile(n, 50) * 1e6 for n in subjects if n != "fusec"},
        "ratio": vars(samples.ratio(best, "fusec")),
    }


def main() -> None:
    """Measure, print and perhaps save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(c.name for c in CASES)}")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--passes", default="", help="passes to switch on or off for fusec")
    parser.add_argument("--save", default=None)
    options = parser.parse_args()
    if unknown := set(options.names) - {c.name for c in CASES}:
        sys.exit(f"unknown cases: {', '.join(sorted(unknown))}")
    rows = []
    for threads in map(int, options.threads.split(",")):
        for c in CASES:
            if not options.names or c.name in options.names:
                rows.append(row(c, threads, options.rounds, options.passes))
                print(f"  {c.name} on {threads} thread(s)", file=sys.stderr)
    print_table(
        machine()["cpu"] + ": float32, interleaved; a ratio above 1 means that fusec is faster",
        ["case", "threads", "fusec us", "GFLOP/s", "best rival", "onnxruntime / fusec"],
        [
            [
                r["case"],
                r["threads"],
                f"{r['fusec_us']:.0f}",
                f"{r['gflops']:.1f}",
                r["best_rival"],
                ratio_text(r["ratio"]),
            ]
            for r in rows
        ],
        "123",
    )
    for threads in sorted({r["threads"] for r in rows}):
        mean = geometric_mean([r["ratio"]["median"] for r in rows if r["threads"] == threads])
        print(f"geometric mean, {threads} thread(s): {mean:.2f}x")
    if options.save:
        save_records(options.save, rows, rounds=options.rounds)


if __name__ == "__main__":
    main()

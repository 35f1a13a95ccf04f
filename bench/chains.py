"""Chains of products and of convolutions whose intermediate stays in cache: fused, the same code unfused, and onnxruntime.

    python -m bench.chains [--threads 1,2] [--rounds 20] [--save FILE.json] [NAME ...]

The shapes are those of the papers on such chains: heads of BERT and ViT, and the token mixing of MLP-Mixer; each as two
products, with ReLU between them, and with softmax between them; and blocks of MobileNetV2 and of ResNet-50, of batch 1 and
4. "apart" is the same compiler with only the fusion of the products switched off, "in order" has it on, but no tasks of
different kernels that take turns, "unfused" runs one kernel per operator. Outputs are compared first; losses are printed
like wins.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
from onnx import TensorProto, helper, numpy_helper

import fusec
from bench.block_cases import BATCHES, BLOCKS
from bench.machine import machine
from bench.records import ratio_text
from bench.store import save_records
from fusec.cli.text import print_table
from fusec.measure.rivals import onnxruntime_subject
from fusec.measure.rounds import geometric_mean, measure
from fusec.runtime.session import Session
from fusec.schedule import bind


@dataclass(frozen=True)
class Shape:
    """x[batch, m, k] @ a[batch, k, inner], something pointwise, @ b[batch, inner, n]; weights where `constant`."""

    name: str
    batch: int
    m: int
    k: int
    inner: int
    n: int
    constant: bool = False


SHAPES = (
    Shape("bert_small", 8, 512, 64, 512, 64),
    Shape("bert_base", 12, 512, 64, 512, 64),
    Shape("bert_large", 16, 512, 64, 512, 64),
    Shape("vit_base_14", 12, 256, 64, 256, 64),
    Shape("vit_large_14", 16, 256, 64, 256, 64),
    Shape("vit_huge_14", 16, 256, 80, 256, 80),
    Shape("vit_base_16", 12, 208, 64, 208, 64),
    Shape("vit_large_16", 16, 208, 64, 208, 64),
    Shape("vit_huge_16", 16, 208, 80, 208, 80),
    Shape("mixer_small", 1, 512, 64, 256, 64, constant=True),
    Shape("mixer_base", 1, 768, 64, 384, 64, constant=True),
    Shape("mixer_large", 1, 1024, 64, 512, 64, constant=True),
)
BETWEEN = ("", "Relu", "Softmax")
RIVALS = ("apart", "in_order", "unfused", "onnxruntime")


def model(s: Shape, between: str) -> tuple[bytes, dict[str, Any]]:
    """The chain as ONNX, and its inputs."""
    rng = np.random.default_rng(0)
    lead = [s.batch] if s.batch > 1 else []
    shapes = {"x": [*lead, s.m, s.k], "a": [*lead, s.k, s.inner], "b": [*lead, s.inner, s.n]}
    arrays = {n: rng.standard_normal(d, dtype=np.float32) / np.float32(d[-2] ** 0.5) for n, d in shapes.items()}
    weights = {n: arrays.pop(n) for n in ("a", "b")} if s.constant else {}
    nodes = [helper.make_node("MatMul", ["x", "a"], ["h"])]
    if between:
        nodes.append(helper.make_node(between, ["h"], ["g"]))  # Softmax is along the last axis by itself
    nodes.append(helper.make_node("MatMul", ["g" if between else "h", "b"], ["y"]))
    graph = helper.make_graph(
        nodes,
        s.name,
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in arrays.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [*lead, s.m, s.n])],
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return made.SerializeToString(), arrays


@dataclass(frozen=True)
class Case:
    """One row: a model, what goes in, its arithmetic, and the pass that "apart" goes without."""

    name: str
    between: str
    data: bytes
    arrays: dict[str, Any]
    flops: float
    apart: str


def cases(names: Sequence[str]) -> Iterator[Case]:
    """All rows with one of these names, or with any."""
    for s in SHAPES:
        for between in BETWEEN if not names or s.name in names else ():
            flops = 2.0 * s.batch * s.m * s.inner * (s.k + s.n)
            yield Case(s.name, between or "-", *model(s, between), flops, "-fuse-chain,-canonicalise-attention")
    for b in BLOCKS:
        for batch in BATCHES if not names or b.name in names else ():
            yield Case(b.name, f"batch {batch}", *b.model(batch), b.flops(batch), "-fuse-conv-chain")


def in_order(case: Case, threads: int) -> Session:
    """Fused, and planned so that one kernel's tasks follow those of the one before."""
    with patch.object(bind, "find_stretches", lambda _region, _far: ()):
        session = fusec.compile(case.data, threads=threads)
        session.run_list(case.arrays, ["y"])  # sizes are planned when they first come
    return session


def row(case: Case, threads: int, rounds: int) -> dict[str, Any]:
    """One chain: fused against the unfused forms and onnxruntime."""
    data, arrays = case.data, case.arrays
    sessions = {
        "fused": fusec.compile(data, threads=threads),
        "apart": fusec.compile(data, threads=threads, passes=case.apart),
        "in_order": in_order(case, threads),
        "unfused": fusec.compile(data, threads=threads, fuse=False, passes="-canonicalise-attention"),
    }
    subjects: dict[str, Any] = {n: (lambda c=c: c.run_list(arrays, ["y"])) for n, c in sessions.items()}
    subjects["onnxruntime"] = onnxruntime_subject(data, arrays, threads)
    want = subjects["onnxruntime"]()[0]
    for name, run in subjects.items():
        if not np.allclose(run()[0], want, rtol=1e-4, atol=1e-4):
            raise SystemExit(f"{case.name}: {name} differs from onnxruntime")
    samples = measure(subjects, rounds=rounds, warmup_seconds=0.1)
    kernels = sum(len(getattr(step, "calls", ())) for step in sessions["fused"].plan.steps)
    return {
        "chain": case.name,
        "between": case.between,
        "threads": threads,
        "kernels": kernels,
        "fused_us": samples.percentile("fused", 50) * 1e6,
        "gflops": case.flops / samples.percentile("fused", 50) * 1e-9,
        **{f"vs_{n}": vars(samples.ratio(n, "fused")) for n in RIVALS},
    }


def main() -> None:
    """Measure, print and perhaps save."""
    known = [x.name for x in (*SHAPES, *BLOCKS)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--save", default=None)
    options = parser.parse_args()
    if unknown := set(options.names) - set(known):
        sys.exit(f"unknown chains: {', '.join(sorted(unknown))}")
    rows = []
    for threads in map(int, options.threads.split(",")):
        for case in cases(options.names):
            rows.append(row(case, threads, options.rounds))
            print(f"  {case.name}, {case.between}, on {threads} thread(s)", file=sys.stderr)
    print_table(
        machine()["cpu"] + ": float32, interleaved; a ratio above 1 means that the fused chain is faster",
        ["chain", "between", "threads", "kernels", "fused us", "GFLOP/s", *(n.replace("_", " ") for n in RIVALS)],
        [
            [
                r["chain"],
                r["between"],
                r["threads"],
                r["kernels"],
                f"{r['fused_us']:.0f}",
                f"{r['gflops']:.1f}",
                *(ratio_text(r[f"vs_{n}"]) for n in RIVALS),
            ]
            for r in rows
        ],
        "2345",
    )
    for threads in sorted({r["threads"] for r in rows}):
        for between in dict.fromkeys(r["between"] for r in rows):
            chosen = [r for r in rows if r["threads"] == threads and r["between"] == between]
            means = (f"{n} {geometric_mean([r[f'vs_{n}']['median'] for r in chosen]):.2f}x" for n in RIVALS)
            print(f"geometric mean, {threads} thread(s), {between}: {', '.join(means)}")
    if options.save:
        save_records(options.save, rows, rounds=options.rounds)


if __name__ == "__main__":
    main()

"""The tables: fused beside unfused, cuBLAS and PyTorch, in interleaved rounds, answers compared before anything is timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.gpu.checks import as_wide, open_session, templates_of
from bench.gpu.lab import Lab
from bench.gpu.models import TOLERANCE, Decoder, Made, chain, decoder, gemm, lstm, mlp
from bench.gpu.report import TABLES
from bench.gpu.rivals import Running, cublas, torch_rivals
from fusec.measure.accuracy import compare
from fusec.measure.rounds import measure
from fusec.runtime.device.arrays import DeviceArray
from fusec.runtime.device.session import DeviceSession
from fusec.runtime.device.steps import DeviceSteps

__all__ = ["TABLES", "Case", "cases", "row", "small_cases"]

FUSED, AGAIN = "fusec", "again"
WARM = 4
"""Runs before answers are compared: graphs are made after a few."""


@dataclass(frozen=True)
class Case:
    """A row: its table, and how to make its model."""

    table: str
    name: str
    make: Callable[[], Made]
    unfused: bool = True


CHAINS = {
    "bert_base": (12, 512, 64, 512, 64),
    "vit_large": (16, 256, 64, 256, 64),
    "mixer_large": (1, 1024, 64, 512, 64),
}
BILLION = Decoder(layers=18, width=2048, heads=16, past=512, vocabulary=50304)


def cases() -> Iterator[Case]:
    """What is measured on a GPU, the most telling first."""
    yield Case("fusion", "MLP 8 x 1024, f32", lambda: mlp([1024] * 9))
    yield Case("fusion", "MLP 8 x 1024, bf16", lambda: mlp([1024] * 9, "bf16"))
    yield Case("fusion", "LSTM 10 x 256, 100 steps, f32", lambda: lstm(10, 100, 256))
    gpt2 = Decoder(layers=12, width=768, heads=12, past=256, vocabulary=50257 // 8 * 8)
    yield Case("fusion", "decode, GPT-2 size, f32", lambda: decoder(gpt2, "f32"))
    yield Case("fusion", "decode, GPT-2 size, bf16", lambda: decoder(gpt2, "bf16"))
    for n in (4096, 8192):
        yield Case("gemm", f"{n}, bf16", lambda n=n: gemm(n, n, n, "bf16"), unfused=False)  # type: ignore[misc]
    yield Case("gemm", "4096, f32", lambda: gemm(4096, 4096, 4096, "f32"), unfused=False)
    yield Case("bandwidth", f"{BILLION.parameters / 1e9:.2f} billion, bf16", lambda: decoder(BILLION, "bf16"))
    for name, sizes in CHAINS.items():
        for between in ("", "relu", "softmax"):
            for dtype in ("f32", "bf16"):
                label = f"{name}, {between or 'nothing'} between, {dtype}"
                yield Case("chains", label, lambda s=sizes, b=between, d=dtype: chain(*s, b, d))  # type: ignore[misc]


def small_cases() -> Iterator[Case]:
    """The same tables for the emulator."""
    yield Case("fusion", "MLP 2 x 24, f32", lambda: mlp([24] * 3))
    yield Case("gemm", "32, bf16", lambda: gemm(32, 32, 32, "bf16"), unfused=False)
    yield Case("bandwidth", "tiny, bf16", lambda: decoder(Decoder(1, 32, 2, 5, 40), "bf16"))
    yield Case("chains", "tiny, softmax between, f32", lambda: chain(1, 16, 8, 16, 8, "softmax", "f32"))


def row(lab: Lab, case: Case, rounds: int, copy_gbs: float | None) -> dict[str, Any]:
    """One case: which subjects agree, their times, and ratios to fusec's."""
    made, notes = case.make(), list[str]()
    subjects = _subjects(lab, case, made, notes)
    fused = subjects[FUSED]
    fused.run()
    want = [as_wide(x) for x in fused.outputs()]
    agreeing: dict[str, Callable[[], object]] = {FUSED: fused.run, AGAIN: fused.run}
    for name, subject in subjects.items():
        if name == FUSED:
            continue
        for _ in range(WARM):
            subject.run()
        got = [as_wide(x) for x in subject.outputs()]
        worst = max(
            (d.required for d in compare([str(i) for i in range(len(got))], got, want[: len(got)])), default=0.0
        )
        if worst <= TOLERANCE[made.dtype]:
            agreeing[name] = subject.run
        else:
            notes.append(f"{name} is not timed: its answers differ by {worst:.2g}")
    if case.table == "gemm" and not lab.emulated:
        n, k = made.feeds["x"].shape
        library = cublas(n, n, k, {"bf16": "bfloat16", "f32": "float32"}[made.dtype], notes)
        if library is not None:
            agreeing["cuBLAS"] = library.run
    samples = measure(agreeing, rounds=rounds, warmup_seconds=0.0 if lab.emulated else 0.2)
    seconds = samples.percentile(FUSED, 50)
    out: dict[str, Any] = {"table": case.table, "case": case.name, "rounds": rounds, "notes": notes}
    out["seconds"] = {n: samples.percentile(n, 50) for n in agreeing}
    out["spread"] = {n: [samples.percentile(n, q) for q in (10, 90)] for n in agreeing}
    out["noise"] = vars(samples.ratio(AGAIN, FUSED))
    out["ratios"] = {n: vars(samples.ratio(n, FUSED)) for n in agreeing if n not in (FUSED, AGAIN)}
    out["tflops"] = made.flops / seconds / 1e12
    if made.weight_bytes:
        out["gbs"] = made.weight_bytes / seconds / 1e9
        if copy_gbs:
            out["of_copy"] = out["gbs"] / copy_gbs
    return out


def _subjects(lab: Lab, case: Case, made: Made, notes: list[str]) -> dict[str, Running]:
    """fusec's forms first, then PyTorch's."""
    out = {FUSED: _fusec(lab, made, notes, told=True)}
    for name, passes in made.passes.items():
        out[name] = _fusec(lab, made, notes, passes=passes)
    if case.unfused:
        out["unfused"] = _fusec(lab, made, notes, fuse=False)
        out["unfused graph"] = _fusec(lab, made, notes, fuse=False, graph=True)
    if lab.emulated:
        return out
    return out | torch_rivals(made, "cuda", notes)


def _fusec(
    lab: Lab,
    made: Made,
    notes: list[str],
    fuse: bool = True,
    passes: str = "",
    told: bool = False,
    graph: bool = False,
) -> Running:
    """A session whose inputs lie on the device and whose outputs stay there; with `graph` its launches are one CUDA graph."""
    session = open_session(made, lab.target, fuse, passes)
    if not fuse:
        assert isinstance(session.steps, DeviceSteps)
        session.steps.records = session.steps.records and graph
    if told:
        steps = [len(getattr(s, "calls", ())) for s in session.plan.steps]
        notes.append(f"{sum(steps)} kernels in {len(steps)} steps; {', '.join(templates_of(session))}")
    assert isinstance(session, DeviceSession)
    feeds = {n: DeviceArray.of(session.opened, a) for n, a in made.feeds.items()}
    last: list[Any] = []

    def run() -> None:
        last[:] = session.run_list(feeds, on_device=True)

    return Running(run, lambda: [np.asarray(x) for x in last])

"""The driver's table of times: every row of every worker, in order, on the clock of perf_counter."""

from __future__ import annotations

import time

import numpy as np
import pytest
from fake_plan import plan_of, session_of
from fake_region import Chain

from fusec.ir.dim import symbol
from fusec.kernels.cpu import driver as d
from fusec.runtime.team import SUPPORTED
from fusec.runtime.times import FrameTimes


@pytest.mark.parametrize("workers", [1, 2, 3] if SUPPORTED else [1])
def test_every_row_is_timed(workers: int) -> None:
    chain = Chain(5, symbol("N"))
    session = session_of(plan_of(chain), workers)
    x = np.arange(333, dtype=np.float32)
    session.run({"x": x})
    binding = session.steps.binding(0, {"N": 333})
    binding.image.words[d.Frame.WORTH] = 1
    binding.idle.clear()
    session.run({"x": x})
    frame = binding.idle[-1]
    times = FrameTimes(frame, binding.schedules)
    seen = set()
    for _ in range(20):
        frame.block.words[d.Frame.TICK] = 0
        start = time.perf_counter_ns()
        result = session.run({"x": x})["y"]
        end = time.perf_counter_ns()
        np.testing.assert_array_equal(result, chain.expected(x))
        told = times.read()
        assert len(told) == frame.workers_used
        seen.add(len(told))
        for worker in told:
            assert start <= worker.began <= worker.ended <= end
            assert (worker.arrived <= worker.ready).all() and (worker.ready <= worker.done).all()
            assert (np.diff(worker.done) >= 0).all()
        tasks = np.concatenate([w.tasks for w in told])
        assert len(set(tasks.tolist())) == len(tasks) == len(binding.schedules[0 if len(told) == 1 else 1].tasks)
    assert max(seen) == workers
    before = [w.began for w in times.read()]
    times.close()
    frame.block.words[d.Frame.TICK] = 0
    session.run({"x": x})
    if frame.workers_used == max(seen):
        assert [w.began for w in times.read()] == before or len(before) != frame.workers_used

"""The driver, frames and the team: right answers for any number of workers, callers, forks, and at any end."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from fake_plan import plan_of, session_of
from fake_region import TARGET, Chain, microseconds

from fusec.ir.dim import symbol
from fusec.kernels.cpu import driver as d
from fusec.kernels.cpu.build import build
from fusec.kernels.cpu.driver import driver_source
from fusec.kernels.cpu.load import call, load
from fusec.kernels.kernel import Source
from fusec.runtime.binding import RegionBinding
from fusec.runtime.frame import Frame
from fusec.runtime.session import Session
from fusec.runtime.team import SUPPORTED, process_team

HERE = Path(__file__).parent
N = symbol("N")
teams = pytest.mark.skipif(not SUPPORTED, reason="one worker only on this system")


def data(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32)


def binding_of(session: Session, n: int) -> RegionBinding:
    x = data(n)
    session.run({"x": x})
    return session._steps.binding(0, {"N": n})


def always_wake(binding: RegionBinding) -> None:
    """Let this binding's frames take the team even when it is parked."""
    binding.image.words[d.Frame.WORTH] = 1
    binding.idle.clear()


def force_team(binding: RegionBinding) -> None:
    """Make the next run one of those that try the team even where it was slower lately, as it is on a busy machine."""
    if binding.idle:
        binding.idle[-1].block.words[d.Frame.TICK] = 0


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 100, 333])
def test_answers_do_not_depend_on_workers(workers: int, n: int) -> None:
    chain = Chain(6, N)
    session = session_of(plan_of(chain), workers)
    for seed in range(3):
        x = data(n, seed)
        np.testing.assert_array_equal(session.run({"x": x})["y"], chain.expected(x))


@teams
@pytest.mark.parametrize("workers", [2, 3])
def test_thousands_of_runs_on_a_team(workers: int) -> None:
    chain = Chain(5, N)
    session = session_of(plan_of(chain), workers)
    binding = binding_of(session, 200)
    always_wake(binding)
    inputs = [data(200, seed) for seed in range(5)]
    expected = [chain.expected(x) for x in inputs]
    teamed = 0
    for i in range(4_000 if workers == 2 else 1_000):
        force_team(binding)
        out = session.run({"x": inputs[i % 5]})["y"]
        teamed += binding.idle[-1].workers_used == workers
        if not np.array_equal(out, expected[i % 5]):
            pytest.fail(f"run {i} is wrong")
    assert teamed > 900


@teams
def test_a_schedule_for_a_team_is_kept_only_where_it_pays() -> None:
    plan = plan_of(Chain(2, N))
    assert len(binding_of(session_of(plan, 2), 16).schedules) == 1, "one tile: nothing to share"
    assert len(binding_of(session_of(plan, 2), 640).schedules) == 2


@teams
def test_small_work_does_not_wake_a_parked_team_but_calls_in_a_row_get_it() -> None:
    session = session_of(plan_of(Chain(2, N)), 2)
    binding = binding_of(session, 64)
    binding.image.words[d.Frame.WORTH] = 0
    binding.idle.clear()
    x = {"x": data(64)}
    session.run(x)
    wait_until_parked()
    session.run(x)
    assert binding.idle[-1].workers_used == 1
    end = time.monotonic() + 20
    while binding.idle[-1].workers_used == 1 and time.monotonic() < end:
        session.run(x)
    assert binding.idle[-1].workers_used == 2


def wait_until_parked() -> None:
    words = process_team().block.words
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if all(words[d.Team.MAILBOX + 8 * i] >> 32 for i in range(process_team().helpers)):
            return
        time.sleep(0.002)
    pytest.fail("helpers do not park")


@teams
def test_the_faster_program_is_taken() -> None:
    session = session_of(plan_of(Chain(3, N)), 2)
    always_wake(binding := binding_of(session, 200))
    x = {"x": data(200)}
    session.run(x)
    words = binding.idle[-1].block.words
    solo, teamed = ((words[k] - binding.idle[-1].address) // 8 + d.Program.TOOK for k in (d.Frame.SOLO, d.Frame.TEAMED))
    used = []
    for _ in range(62):
        words[solo], words[teamed] = 1, 10**9
        session.run(x)
        used.append(binding.idle[-1].workers_used)
    assert used.count(2) == 1, "one try in 32"
    words[d.Frame.TICK] = 16
    used = []
    for _ in range(20):
        words[solo], words[teamed] = 10**9, 1
        session.run(x)
        used.append(binding.idle[-1].workers_used)
    assert used.count(2) == 20


@teams
def test_work_that_is_worth_it_wakes_a_parked_team() -> None:
    chain = Chain(3, N)
    session = session_of(plan_of(chain), 2)
    always_wake(binding := binding_of(session, 200))
    x = data(200)
    for _ in range(20):
        wait_until_parked()
        force_team(binding)
        np.testing.assert_array_equal(session.run({"x": x})["y"], chain.expected(x))
        assert binding.idle[-1].workers_used == 2


@teams
def test_a_parked_team_uses_no_time() -> None:
    session = session_of(plan_of(Chain(3, N)), 3)
    always_wake(binding_of(session, 200))
    session.run({"x": data(200)})
    wait_until_parked()
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1


@pytest.mark.parametrize("workers", [1, 2])
def test_eight_callers_at_once(workers: int) -> None:
    chain = Chain(4, N)
    session = session_of(plan_of(chain), workers)
    always_wake(binding_of(session, 100))
    wrong: list[int] = []

    def caller(seed: int) -> None:
        x = data(100 + seed % 2, seed)
        expected = chain.expected(x)
        for _ in range(150):
            if not np.array_equal(session.run({"x": x})["y"], expected):
                wrong.append(seed)

    threads = [threading.Thread(target=caller, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


@teams
def test_forks_while_another_thread_runs() -> None:
    chain = Chain(4, N)
    session = session_of(plan_of(chain), 2)
    always_wake(binding_of(session, 100))
    x = data(100)
    expected = chain.expected(x)
    stop: list[int] = []

    def caller() -> None:
        while not stop:
            session.run({"x": x})

    thread = threading.Thread(target=caller)
    thread.start()
    bad = 0
    try:
        for _ in range(60):
            pid = os.fork()
            if pid == 0:
                signal.alarm(20)
                good = all(np.array_equal(session.run({"x": x})["y"], expected) for _ in range(3))
                os._exit(0 if good else 3)
            bad += os.waitpid(pid, 0)[1] != 0
    finally:
        stop.append(1)
        thread.join()
    assert bad == 0


@teams
def test_a_child_gets_a_team_of_its_own() -> None:
    chain = Chain(4, N)
    session = session_of(plan_of(chain), 2)
    always_wake(binding := binding_of(session, 200))
    session.run({"x": data(200)})
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        ok = process_team().helpers == 0
        ok = ok and np.array_equal(session.run({"x": data(200)})["y"], chain.expected(data(200)))
        ok = ok and process_team().helpers == 1 and binding.idle[-1].workers_used == 2
        os._exit(0 if ok else 3)
    assert os.waitpid(pid, 0)[1] == 0


def in_subprocess(body: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    head = """
        import sys; sys.path.insert(0, %r)
        import numpy as np, os, signal, threading, time
        from fake_plan import plan_of, session_of
        from fake_region import Chain
        from fusec.ir.dim import symbol
        from fusec.kernels.cpu import driver as d
        def ready(workers, n, depth=4):
            s = session_of(plan_of(Chain(depth, symbol("N"))), workers)
            x = np.ones(n, np.float32)
            s.run({"x": x})
            b = s._steps.binding(0, {"N": n})
            b.image.words[d.Frame.WORTH] = 1
            b.idle.clear()
            return s, {"x": x}
    """
    text = textwrap.dedent(head) % str(HERE) + textwrap.dedent(body)
    command = [sys.executable, "-c", text]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout)


@teams
@pytest.mark.parametrize("pause", ["", "time.sleep(0.05)"])
def test_exit_does_not_hang(pause: str) -> None:
    done = in_subprocess(f"s, f = ready(3, 200)\ns.run(f)\n{pause}\nprint('end')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


@teams
def test_exit_while_daemon_threads_run() -> None:
    done = in_subprocess(
        """
        s, f = ready(2, 5000)
        def loop():
            while True:
                s.run(f)
        for _ in range(3):
            threading.Thread(target=loop, daemon=True).start()
        time.sleep(0.1)
        print("end", flush=True)
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_a_run_in_a_late_exit_handler_is_refused() -> None:
    done = in_subprocess(
        """
        import atexit
        def late():
            try:
                s.run(f)
            except Exception as e:
                print(e)
        atexit.register(late)
        s, f = ready(1, 50)
        print("end")
        """
    )
    assert done.returncode == 0 and done.stdout.startswith("end\nthe run was aborted"), done.stdout + done.stderr


@teams
def test_no_thread_is_started_for_one_worker() -> None:
    done = in_subprocess(
        """
        s, f = ready(1, 200); s.run(f)
        s, f = ready(2, 16); s.run(f)
        print(len(os.listdir("/proc/self/task")))
        s, f = ready(2, 200); s.run(f)
        print(len(os.listdir("/proc/self/task")))
        """
    )
    alone, together = map(int, done.stdout.split())
    assert together == alone + 1, done.stderr


@pytest.mark.parametrize("workers", [1, 2] if SUPPORTED else [1])
def test_ctrl_c_ends_a_long_run(workers: int) -> None:
    done = in_subprocess(
        f"""
        signal.signal(signal.SIGINT, signal.default_int_handler)  # children of a background job ignore it
        n = 20_000_000
        s = session_of(plan_of(Chain(400, symbol("N")), 1 << 18), {workers})
        s._steps.binding(0, {{"N": n}})
        f = {{"x": np.ones(n, np.float32)}}
        threading.Timer(1.0, lambda: (globals().update(t=time.monotonic()), os.kill(os.getpid(), signal.SIGINT))).start()
        try:
            s.run(f)
            print("finished")
        except KeyboardInterrupt:
            print("late" if time.monotonic() - t > 5 else "stopped")
        s2, f2 = ready({workers}, 100)
        print(float(s2.run(f2)["y"][0]) == float(Chain(4, 100).expected(f2["x"])[0]))
        """,
        timeout=120,
    )
    assert done.stdout.split() == ["stopped", "True"], done.stdout + done.stderr


def test_an_aborted_frame_is_not_used_again() -> None:
    session = session_of(plan_of(Chain(2, N)), 1)
    binding = binding_of(session, 64)
    frame = binding.take()
    x, y = data(64), np.empty(64, np.float32)
    frame.io[0], frame.io[1] = id(x), id(y)
    frame.block.words[d.Frame.ABORT] = 1
    assert binding.driver.run(frame.address) == d.ABORTED
    assert not frame.is_running


@pytest.mark.skipif(TARGET.level == "neon", reason="MXCSR is a register of x86-64")
def test_the_driver_sets_and_restores_the_floating_point_mode() -> None:
    """Subnormals are numbers inside a run, whatever the caller's mode, and the caller's mode survives."""
    mode = """
        declare void @llvm.x86.sse.stmxcsr(ptr)
        declare void @llvm.x86.sse.ldmxcsr(ptr)
        define void @entry(ptr %word, i64 %set, i64 %count, ptr %scratch) {
          %s = icmp ne i64 %set, 0
          br i1 %s, label %write, label %read
        write:
          call void @llvm.x86.sse.ldmxcsr(ptr %word)
          ret void
        read:
          call void @llvm.x86.sse.stmxcsr(ptr %word)
          ret void
        }
    """
    access = load(build(Source(mode, "entry", (), 0), TARGET))
    before, flush, after = ctypes.c_int64(), ctypes.c_int64(0x9FC0), ctypes.c_int64()
    session = session_of(plan_of(Chain(1, N, (0.5,))), 1)
    tiny = {"x": np.full(40, 1e-40, np.float32)}
    session.run(tiny)
    call(access, ctypes.addressof(before), 0, 0, 0)
    call(access, ctypes.addressof(flush), 1, 0, 0)
    out = session.run(tiny)["y"]
    call(access, ctypes.addressof(after), 0, 0, 0)
    call(access, ctypes.addressof(before), 1, 0, 0)
    assert after.value & 0xFFC0 == 0x9FC0
    assert out[0] == np.float32(1e-40) * np.float32(0.5) != 0


def test_every_level_has_a_driver() -> None:
    for level in ("generic", "avx2", "avx512", "neon"):
        text = driver_source(level).text
        assert "@PAUSE@" not in text and "@FUTEX@" not in text
        assert ("isb" in text) == (level == "neon")


def test_a_frame_gives_its_memory_back() -> None:
    import weakref

    session = session_of(plan_of(Chain(2, N)), 1)
    binding = binding_of(session, 64)
    frame: Frame = binding.take()
    ref = weakref.ref(frame)
    del frame
    assert ref() is None


def test_microseconds_is_only_an_estimate() -> None:
    """The same answers with absurd estimates: they steer the schedule, never the result."""
    chain = Chain(4, N)
    for guess in (1e-3, 1e4):
        session = Session(
            plan_of(chain), threads=2, code=session_of(plan_of(chain))._planner.code, microseconds=lambda _, g=guess: g
        )
        x = data(130)
        np.testing.assert_array_equal(session.run({"x": x})["y"], chain.expected(x))
    assert microseconds is not None and TARGET.kind == "cpu"

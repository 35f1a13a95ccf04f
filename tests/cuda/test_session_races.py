"""Whole sessions in emulation under a race detector, a memory checker and random orders of threads.

A missing wait, barrier or copy in any kernel of these models is found, even where results happen to be right.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fusec.kernels.cuda.emulator.build import compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler to emulate a device with")

LIBRARIES = {"thread": "libtsan.so", "address": "libasan.so"}
OPTIONS = {
    "TSAN_OPTIONS": "halt_on_error=1:ignore_interceptors_accesses=1:report_signal_unsafe=0",
    "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",
}
CHILD = """
import functools
import sys

import numpy as np

sys.path[:0] = {path!r}
from session_models import MODELS

import fusec
from fusec.kernels.cuda.emulator import build, device
from fusec.tiling.device import resident, split

resident.WIDTHS = (8,)  # so that the steps of small layers are shared, too
split.HAND_OVER, split.GAIN, split.SHORTEST, split.SHORTEST_ROW = 0.0, 1e3, 32, 64  # and small folds sliced
build.link = functools.partial(build.link, sanitizer={sanitizer!r})
fingerprint = build.fingerprint()
build.fingerprint = lambda: fingerprint + {sanitizer!r}
opened = device.EmulatedDevice.__post_init__


def in_another_order(self):
    self.emulation = device.Emulation(seed={seed}, lazy=True, poison=True)
    opened(self)


device.EmulatedDevice.__post_init__ = in_another_order
for name in {names!r}:
    make, feeds = MODELS[name]
    session, cpu = fusec.compile(make(), device="cuda:sm_80-emulated", threads=3), fusec.compile(make(), threads=1)
    for x in feeds[:2]:
        want, got = cpu.run(x), session.run(x)
        for key, array in want.items():
            np.testing.assert_allclose(got[key], array, rtol=1e-4, atol=1e-5)
print("finished")
"""


def check(names, sanitizer="", seed=0):
    """Run models in a process of their own, since a sanitizer must be there from its start."""
    environment = {**os.environ, **OPTIONS}
    command = [sys.executable]
    if sanitizer:
        library = subprocess.run(
            [compiler(), f"-print-file-name={LIBRARIES[sanitizer]}"], capture_output=True, text=True, check=False
        ).stdout.strip()
        if not Path(library).is_absolute():
            pytest.skip(f"no {LIBRARIES[sanitizer]}")
        environment["LD_PRELOAD"] = library
        if sanitizer == "thread":  # its shadow memory has fixed places
            if shutil.which("setarch") is None:
                pytest.skip("no setarch to switch random addresses off")
            command = ["setarch", "-R", *command]
    here = Path(__file__)
    text = CHILD.format(path=[str(here.parent), str(here.parents[2])], sanitizer=sanitizer, seed=seed, names=names)
    done = subprocess.run(
        [*command, "-c", text], env=environment, capture_output=True, text=True, check=False, timeout=280
    )
    assert "finished" in done.stdout, (done.stdout + done.stderr)[-4000:]


@pytest.mark.parametrize("names", [["conv"], ["slices"]], ids="+".join)
def test_no_two_threads_touch_the_same_without_order(names):
    check(names, "thread")


@pytest.mark.slow
@pytest.mark.parametrize("names", [["mlp"], ["softmax"], ["chain"], ["lstm"], ["table"], ["host step"]], ids="+".join)
def test_no_two_threads_touch_the_same_without_order_in_more_models(names):
    check(names, "thread")


@pytest.mark.parametrize("names", [["table", "slices"]], ids="+".join)
def test_nobody_reads_or_writes_outside(names):
    check(names, "address")


@pytest.mark.slow
@pytest.mark.parametrize("names", [["mlp"], ["softmax"], ["conv"], ["chain"], ["lstm"], ["host step"]], ids="+".join)
def test_nobody_reads_or_writes_outside_in_more_models(names):
    check(names, "address")


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_any_order_of_threads_gives_the_answers(seed):
    check(["mlp", "chain", "lstm", "slices"], seed=seed)

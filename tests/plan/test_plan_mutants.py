"""A plan is data that nobody trusts, also where its hashes are right: changed plans end in a FusecError or run to the end.

Every victim is a process whose kernels work in fenced memory (see plan_mutants.py), so an access outside kills it.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

import fusec
from bench.models.architectures import encoder, gpt2_decode, mlp
from bench.models.builder import ModelBuilder
from fusec.errors import FusecError, PlanError
from fusec.plan.file import CONTENTS, MANIFEST, PROGRAMS, deserialise, serialise

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from plan_mutants import bodies_of, mutant, sealed

SECONDS = 60
"""That a mutant may take."""


def views() -> ModelBuilder:
    """Guarded and gathered loads, host steps, and symbols that they hand on."""
    b = ModelBuilder("views")
    x = b.input("x", ["n", 6, 10], b.rng.standard_normal((3, 6, 10)).astype(np.float32))
    i = b.input("i", ["n", 4], b.rng.integers(0, 6, (3, 4)))
    padded = b.op("Pad", x, b.ints(0, 1, 2, 0, 1, 1))
    back = b.op("Slice", padded, b.ints(7, -1), b.ints(-100, -100), b.ints(1, 2), b.ints(-2, -3))
    b.output(b.op("Transpose", b.op("Relu", back), perm=[2, 0, 1]), ["a", "n", "c"])
    b.output(b.op("GatherElements", b.op("ReduceSum", x, b.ints(2), keepdims=0), i, axis=1), ["n", 4])
    rows = b.op("Gather", b.weight(6, 8), i)
    values, places = b.op("TopK", b.op("Softmax", rows, axis=-1), b.ints(3), outputs=2)
    b.output(b.op("Exp", b.op("Cast", b.op("Unique", i), to=1)), ["u"])
    b.output(b.op("Concat", values, b.op("Mul", values, values), b.op("Cast", places, to=1), axis=2), ["n", 4, 9])
    return b


def windows() -> ModelBuilder:
    """Sizes that have to be large enough for what is taken out of them."""
    b = ModelBuilder("windows")
    x = b.input("x", ["n", 3, "h", "w"], b.rng.standard_normal((2, 3, 9, 12)).astype(np.float32))
    y = b.op("Conv", x, b.weight(4, 3, 3, 3), strides=[2, 2])
    y = b.op("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    b.output(b.op("GlobalAveragePool", y), ["n", 4, 1, 1])
    return b


MODELS: dict[str, Callable[[], ModelBuilder]] = {
    "mlp": lambda: mlp([8, 16, 4], batch=2, dynamic=True),
    "encoder": lambda: encoder(1, 32, 4, 64, 8, 1, 50, dynamic=True),
    "gpt2": lambda: gpt2_decode(1, 32, 4, 8, 64),
    "views": views,
    "windows": windows,
}


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, out = tmp_path_factory.mktemp("plans"), {}
    for name, build in MODELS.items():
        built = build()
        path = out[name] = folder / f"{name}.fplan"
        passes = "-fuse-chain" if name == "mlp" else ""  # a value between kernels that a mutant can lie about
        path.write_bytes(b"".join(serialise(fusec.compile(built.model(), threads=1, passes=passes).plan)))
        np.savez(path.with_suffix(".npz"), **built.feeds)
    return out


def run_victim(files: Sequence[Path], seeds: Sequence[int]) -> Counter[str]:
    """The outcomes of mutants; a victim that dies or hangs is the outcome "seed ..."."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "FUSEC_MAX_MEMORY": "1GiB"}
    command = [sys.executable, str(HERE / "plan_mutants.py"), *map(str, files)]
    outcomes: Counter[str] = Counter()
    todo = list(seeds)
    while todo:
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        ) as victim:
            assert victim.stdin is not None and victim.stdout is not None and victim.stderr is not None
            while todo:
                seed = todo.pop()
                print(seed, file=victim.stdin, flush=True)
                answer = victim.stdout.readline() if select.select([victim.stdout], [], [], SECONDS)[0] else "hangs"
                if answer.startswith(f"{seed} "):
                    outcomes[answer.split()[1]] += 1
                    continue
                victim.kill()
                lines = victim.stderr.read().strip().splitlines()
                outcomes[f"seed {seed}: {answer or victim.wait()} {lines[-1:]}"] += 1
                break
            else:
                victim.stdin.close()
    return outcomes


def test_mutants_are_refused_or_run(plans: dict[str, Path], thorough: bool) -> None:
    start, count = time.monotonic(), 4000 if thorough else 160
    outcomes = run_victim(list(plans.values()), range(count))
    wrong = [o for o in outcomes if o.startswith("seed") or o == "BugError"]
    assert not wrong, f"{wrong} after {time.monotonic() - start:.0f} s"
    assert outcomes["ran"] > count // 20, outcomes
    assert outcomes["PlanError"] > count // 4, outcomes


def test_the_fence_is_there(plans: dict[str, Path]) -> None:
    """One element beyond an array kills the process: without this the test above would show nothing."""
    code = (
        "import plan_mutants as p, ctypes; a = p.fenced((5,), 'f4'); a[4] = 1; ctypes.memset(a.ctypes.data + 20, 0, 1)"
    )
    environment = {**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parents[1]}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert done.returncode < 0


def changed(path: Path, section: str, old: str, new: str, count: int = 1) -> bytes:
    """A plan with a text of a section replaced."""
    bodies = bodies_of(path.read_bytes())
    text = bodies[section].decode()
    assert old in text, text[:2000]
    bodies[section] = text.replace(old, new, count).encode()
    return sealed(bodies)


def load_and_run(data: bytes, path: Path) -> None:
    from fusec.api import open_session

    open_session(deserialise(memoryview(data)), threads=1).run(dict(np.load(path.with_suffix(".npz"))))


@pytest.mark.parametrize(
    ("model", "section", "old", "new", "words"),
    [
        ("mlp", CONTENTS, '"rows":6', '"rows":1000000000', "register tiles"),
        ("mlp", CONTENTS, '"vectors":2', '"vectors":0', "register tiles"),
        ("mlp", CONTENTS, '"template":"contract"', '"template":"exec"', "template"),
        ("mlp", CONTENTS, '"template":"contract"', '"template":"stream"', "no attention"),
        ("mlp", CONTENTS, '1/16 0 1%16', '1/24 0 1%24', "cannot reshape|weight"),
        ("mlp", CONTENTS, '1/16 0 1%16', '1/16 1%16 0', "layout"),
        ("mlp", CONTENTS, '"kernels":{', '"kernels":{"p77":[],', "p77"),
        ("mlp", CONTENTS, '"aliases":{}', '"aliases":{"a":"b","b":"a"}', "circle"),
        ("mlp", MANIFEST, 'f32[batch, 8]', 'f32[batch, 9]', "x"),
        ("mlp", MANIFEST, 'f32[batch, 8]', 'f64[batch, 8]', "x"),
        ("mlp", MANIFEST, '"target":"cpu', '"target":"../cpu', "target"),
        ("views", CONTENTS, 'b64\\"', 'b64\\"AAAA', "host step"),
        ("views", CONTENTS, "opaque[", "reshape[", "host step"),
        ("windows", CONTENTS, '"size":"floordiv(h', '"size":"floordiv(q', "nothing tells"),
        ("windows", CONTENTS, '"size":"floordiv(h', '"size":"4 + floordiv(1', "requirement|nothing tells"),
        ("windows", CONTENTS, '"size":"floordiv(h', '"size":"floordiv(h, 0)+floordiv(h', "no size at all"),
        ("windows", CONTENTS, '"least":2', '"least":1000', "the padded input has"),
        ("windows", CONTENTS, '"requirements":[', '"needs":[', "needs"),
    ],
)  # fmt: skip
def test_attacks_are_named(plans: dict[str, Path], model: str, section: str, old: str, new: str, words: str) -> None:
    with pytest.raises((PlanError, FusecError), match=words):
        load_and_run(changed(plans[model], section, old, new, -1), plans[model])


@pytest.mark.parametrize("old_new", [("[batch, 16]", "[batch, 4]"), ("[batch, 16]", "[2*batch, 16]"), ("[16]", "[4]")])
def test_sizes_that_lie_are_the_plans_error(plans: dict[str, Path], old_new: tuple[str, str]) -> None:
    """They show up when numbers are known, in checks that guard fusec itself as well."""
    with pytest.raises(PlanError, match="plan"):
        load_and_run(changed(plans["mlp"], CONTENTS, *old_new, -1), plans["mlp"])


def test_a_host_step_reads_no_file(plans: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fusec.host.run import HostRunner
    from fusec.ir.graph import Node, Value
    from fusec.ir.types import parse_type

    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_bytes(bytes(16))
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="secret")
    proto = onnx.helper.make_node("Constant", [], ["y"], value=tensor).SerializeToString()
    attrs = (("captures", ()), ("domain", ""), ("op_type", "Constant"), ("opsets", (("", 17),)), ("proto", proto))
    with pytest.raises(PlanError, match="another file"):
        HostRunner(Node("opaque", (), (Value("y", parse_type("f32[4]")),), attrs))


def test_one_seed_is_one_mutant(plans: dict[str, Path]) -> None:
    data = plans["mlp"].read_bytes()
    made = [mutant(data, seed) for seed in range(8)]
    assert made == [mutant(data, seed) for seed in range(8)]
    assert len({data, *made}) > 4


@pytest.mark.parametrize(
    "old_new",
    [
        ("m: M", "m: M + 1"),
        ("input", "output"),
        ("weight", "input"),
        ("input", "weight"),
        ("f32", "string"),
        ("stage m", "stage n, m"),
    ],
)
def test_programs_that_lie_are_refused(plans: dict[str, Path], old_new: tuple[str, str]) -> None:
    path = plans["encoder"]
    if old_new[0] not in bodies_of(path.read_bytes())[PROGRAMS].decode():
        pytest.skip("the programs say it otherwise")
    with pytest.raises(FusecError):
        load_and_run(changed(path, PROGRAMS, *old_new, -1), path)

"""A real package, installed by pip into a folder of its own, adds an op, its ONNX spelling, two passes and a back end."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

INSTALL = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]


def pip_install(source, target):
    command = [sys.executable, *INSTALL, "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def run(code, *folders):
    path = os.pathsep.join(map(str, (*folders, ROOT)))
    env = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, text=True, timeout=120, env=env
    )


def outcome(code, *folders):
    done = run(code, *folders)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def extra(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(HERE / "fusec-extra", folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info"))
    pip_install(folder / "source", folder / "site")
    return folder / "site"


PRELUDE = """
import sys
from fusec.knobs import Limits
from fusec.rewrite.graph_pass import PassContext
from fusec.target import Target
context = PassContext(Target("cpu", "avx2"), Limits(), selection=("+drop-late-relu", "+fuse-softshift,-fuse-epilogue"))
"""

LISTING = """
import sys
import fusec.passes.default
from fusec.rewrite import registry
print({"drop-late-relu", "fuse-softshift", "fuse-rows"} <= set(registry.known()))
print(registry.provider("fuse-softshift"), registry.provider("fuse-rows"))
print("fusec_extra" in sys.modules)
"""


def test_names_are_listed_without_importing_anything(extra):
    assert outcome(LISTING, extra) == ["True", "fusec-extra fusec", "False"]


COMPILING = (
    PRELUDE
    + """
import numpy as np, onnx
from onnx import TensorProto, helper
from fusec.frontend.read import read_model
from fusec.ir.reference import run_reference
from fusec.passes.default import fuse_default, optimise
nodes = [
    helper.make_node("Relu", ["x"], ["a"]),
    helper.make_node("Softshift", ["a"], ["b"], domain="com.example"),
    helper.make_node("Relu", ["b"], ["c"]),
    helper.make_node("MatMul", ["c", "w"], ["h"]),
    helper.make_node("Softshift", ["h"], ["y"], domain="com.example", shift=0.5),
]
w = onnx.numpy_helper.from_array(np.eye(4, dtype="f4"), "w")
x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 4]) for n in "xy")
opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], [w]), opset_imports=opsets)
graph = optimise(read_model(model.SerializeToString(), limits=Limits()), context)
print([n.op for n in graph.nodes])
fused = fuse_default(graph, context)
print([g.label for g in fused.groups])
print([d.rule for d in fused.decisions if d.verdict and d.value == "h"])
feed = np.linspace(-2, 2, 8, dtype="f4").reshape(2, 4)
soft = lambda z: z / (1 + abs(z))
print(np.allclose(run_reference(graph, {"x": feed})["y"], soft(soft(np.maximum(feed, 0))) + 0.5))
"""
)


def test_a_model_uses_the_op_and_the_passes(extra):
    ops, groups, rules, same = outcome(COMPILING, extra)
    assert ops == "['relu', 'softshift', 'matmul', 'softshift']"
    assert groups == "['relu+softshift+matmul+softshift']"
    assert rules == "['fuse-softshift']"
    assert same == "True"


ECHO = """
import sys
import numpy as np
import fusec
from bench.models.architectures import mlp
from fusec.kernels import backend
print(backend.known(), "fusec_extra" in sys.modules)
model = mlp([8, 16, 4], batch=2, dynamic=True).model()
session = fusec.compile(model, device={device!r}, threads=1)
x = np.linspace(-1, 1, 24, dtype="f4").reshape(3, 8)
(y,), (z,) = (fusec.compile(model, device=d, threads=1).run({{"x": x}}).values() for d in ({device!r}, "cpu"))
print(session.plan.target, np.allclose(y, z, atol=1e-6))
from fusec.plan.file import save
save(session.plan, {plan!r})
print(len(backend.get("echo").emitted) > 0 and str(fusec.load({plan!r}).plan.target))
"""


def test_a_model_runs_on_a_back_end_of_a_package(extra, tmp_path):
    plan = tmp_path / "echo.fplan"
    listed, ran, loaded = outcome(ECHO.format(device="echo:generic", plan=str(plan)), extra)
    assert listed == "('cpu', 'cuda', 'deaf', 'echo', 'mute') False"
    assert ran == "echo:generic True"
    assert loaded == "echo:generic"
    resolved = (
        "from fusec import Target; from fusec.kernels.backend import resolve; print(resolve(Target.parse('echo')))"
    )
    assert outcome(resolved, extra) == ["echo:generic"]
    # without the package the plan is made again for this machine
    code = f"import fusec; print(fusec.load({str(plan)!r}).plan.target.kind)"
    assert outcome(code) == ["cpu"]


@pytest.mark.parametrize(
    ("device", "message"),
    [
        (
            "deaf",
            "package 'fusec-extra' offers back end 'deaf', but loading 'fusec_extra.broken:Deaf' fails: ModuleNot",
        ),
        ("mute", "package 'fusec-extra' offers back end 'mute', but 'fusec_extra.promised:__doc__' is none"),
        ("echo:loud", "unknown level 'loud' of device 'echo'"),
        ("eccho", "unknown device 'eccho'; did you mean 'echo'?"),
    ],
)
def test_what_is_wrong_with_a_device_is_said(extra, device, message):
    done = run(
        f"from fusec import Target\nfrom fusec.kernels.backend import resolve\nresolve(Target.parse({device!r}))", extra
    )
    assert "UsageError" in done.stderr.splitlines()[-1]
    assert message in done.stderr


FUNCTION = """
import sys
import numpy as np, onnx
import fusec
from onnx import TensorProto, helper
node = helper.make_node("Halvings", ["x"], ["y"], domain="com.example")
x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [4]) for n in "xy")
opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
session = fusec.compile(helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=opsets))
from fusec.plan.file import save
save(session.plan, {plan!r})
"""
LOADING = """
import sys
import numpy as np
import fusec
print("fusec_extra.functions" in sys.modules)
print(fusec.load({plan!r}).run({{"x": np.float32([0.5, 1, 7, 8])}})["y"].tolist())
"""


def test_a_plan_finds_the_function_of_a_package(extra, tmp_path):
    plan = str(tmp_path / "a.fplan")
    outcome(FUNCTION.format(plan=plan), extra)
    assert outcome(LOADING.format(plan=plan), extra) == ["False", "[0.0, 1.0, 3.0, 4.0]"]
    done = run(LOADING.format(plan=plan))
    assert "needs a function for com.example::Halvings" in done.stderr
    assert "import 'fusec_extra.functions' first, or install the package" in done.stderr


USE = PRELUDE + "from fusec.rewrite.graph_pass import get_graph_pass\nget_graph_pass({!r})"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "broken-pass",
            "package 'fusec-extra' offers pass 'broken-pass', but loading 'fusec_extra.broken' fails: ModuleNot",
        ),
        (
            "promised-pass",
            "package 'fusec-extra' offers pass 'promised-pass', but 'fusec_extra.promised' declares none",
        ),
        ("fuse-softshift", "'fuse-softshift' is a fusion pass, not a graph pass"),
        ("drop-late-rely", "unknown pass 'drop-late-rely'; did you mean 'drop-late-relu'?"),
    ],
)
def test_what_is_wrong_names_the_package(extra, name, message):
    done = run(USE.format(name), extra)
    assert done.returncode != 0
    assert "UsageError" in done.stderr.splitlines()[-1]
    assert message in done.stderr


def test_two_packages_with_one_pass_name_both(extra, tmp_path):
    source = shutil.copytree(HERE / "fusec-extra", tmp_path / "source")
    for file in source.rglob("*"):
        if file.suffix in (".toml", ".py"):
            file.write_text(
                file.read_text().replace("fusec-extra", "fusec-other").replace("fusec_extra", "fusec_other")
            )
    (source / "fusec_extra").rename(source / "fusec_other")
    pip_install(source, tmp_path / "site")
    done = run(USE.format("drop-late-relu"), extra, tmp_path / "site")
    assert "two packages offer pass 'broken-pass': 'fusec-extra' and 'fusec-other'" in done.stderr
    done = run("from fusec.kernels.backend import get\nget('cpu')\nget('echo')", extra, tmp_path / "site")
    assert "two packages offer back end 'deaf': 'fusec-extra' and 'fusec-other'" in done.stderr

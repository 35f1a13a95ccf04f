"""Bad model files: every one gives a clear error of the right class, at once, and nothing outside the model is touched."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).parent))
from onnx_models import F32, info, init, model, node, relu_model

from fusec.errors import FusecError, ModelError, ResourceError, UnsupportedError, UsageError
from fusec.frontend.read import read_model
from fusec.frontend.source import load_source
from fusec.ir.graph import Graph
from fusec.knobs import Limits


def fails(kind: type[FusecError], source: object, *words: str, **options: object) -> FusecError:
    with pytest.raises(kind) as caught:
        read_model(source, **options)  # type: ignore[arg-type]
    text = str(caught.value)
    for word in words:
        assert word in text, text
    assert all(c.isprintable() for c in text), repr(text)
    return caught.value


# 1-6: what is not a model


def test_missing_file_suggests_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"x")
    error = fails(ModelError, tmp_path / "modle.onnx", "no such file", "did you mean", "model.onnx")
    assert error.path == str(tmp_path / "modle.onnx")
    fails(ModelError, tmp_path / "nowhere" / "m.onnx", "no such file", "no folder")


def test_directory_fifo_and_device_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    start = time.monotonic()
    fails(ModelError, tmp_path, "is a directory")
    fails(ModelError, tmp_path / "fifo", "not a regular file")
    fails(ModelError, "/dev/zero", "not a regular file")
    assert time.monotonic() - start < 1


MAGIC = {
    b"": "is empty",
    b"\x89PNG\r\n\x1a\n" + bytes(64): "PNG",
    b"PK\x03\x04" + bytes(64): "zip archive",
    b"\x1f\x8b\x08" + bytes(64): "gzip",
    b"version https://git-lfs.github.com/spec/v1\n": "Git LFS",
    b"<ir_version: 8, opset_import: [ ''  : 17]>\nagraph (float[N] x) => (float[N] y) { y = Relu(x) }": "text form",
    b'{"irVersion": "8", "graph": {}}': "JSON",
    b"hello, I am a text file": "text",
    bytes(range(1, 250)) * 8: "not an ONNX protobuf",
}


@pytest.mark.parametrize(("data", "word"), MAGIC.items(), ids=list(MAGIC.values()))
def test_other_files_are_recognised(data: bytes, word: str, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    fails(ModelError, tmp_path / "m.onnx", word)
    fails(ModelError, data, word)


def test_truncated_anywhere() -> None:
    data = model(
        [node("MatMul", "x w", "h"), node("Relu", "h", "y")],
        [info("x")],
        [info("y")],
        [init("w", np.ones((3, 3), "f"))],
    ).SerializeToString()
    for cut in np.linspace(1, len(data) - 1, 50).astype(int):
        with pytest.raises(FusecError):
            read_model(data[:cut])


def test_random_bytes_never_crash() -> None:
    r = np.random.default_rng(0)
    good = bytearray(relu_model().SerializeToString())
    for _ in range(300):
        data = bytearray(good)
        for _ in range(r.integers(1, 6)):
            data[r.integers(len(data))] = r.integers(256)
        try:
            assert isinstance(read_model(bytes(data)), Graph)
        except FusecError as e:
            assert e.exit_code in (3, 4, 9)


def test_over_two_gigabytes(tmp_path: Path) -> None:
    with open(tmp_path / "big.onnx", "wb") as f:
        f.truncate(2**31 + 5)  # sparse: takes no disk
    fails(ModelError, tmp_path / "big.onnx", "2 GiB", "external data")


def test_wrong_kind_of_source() -> None:
    fails(UsageError, 3, "int")


# 8-9: versions


def test_newer_versions_are_refused_unless_allowed() -> None:
    newer = onnx.defs.onnx_opset_version() + 1
    m = model([node("Relu", "x", "y")], [info("x")], opset=newer)
    fails(ModelError, m, str(newer), str(newer - 1), "--allow-newer-opset")
    assert read_model(m, limits=Limits(allow_newer_opset=True)).nodes
    m = relu_model()
    m.ir_version = 99
    fails(ModelError, m, "99", "--allow-newer-opset")


def test_opset_imports() -> None:
    m = relu_model()
    del m.opset_import[:]
    fails(ModelError, m, "opset")
    m = relu_model()
    m.opset_import.append(helper.make_opsetid("ai.onnx", 11))
    fails(ModelError, m, "two versions")
    m = relu_model()
    m.opset_import.append(helper.make_opsetid("", 17))  # the same twice is harmless
    assert len(read_model(m).nodes) == 1
    fails(ModelError, model([node("Thing", "x", "y", domain="acme")], [info("x")]), "acme", "import")


# 10-12: what nothing can run


def test_all_unknown_operators_in_one_error() -> None:
    nodes = [
        helper.make_node("Foo", ["x"], ["a"], name="first_foo", domain="acme"),
        helper.make_node("Foo", ["a"], ["b"], domain="acme"),
        helper.make_node("Bar", ["b"], ["c"], name="the_bar", domain="acme"),
        helper.make_node("NoSuchOp", ["c"], ["y"]),
    ]
    m = model(nodes, [info("x")], [info("y")], domains=[("acme", 1)])
    error = fails(
        UnsupportedError, m, "3 kinds", "acme::Foo (2x, first 'first_foo'", "acme::Bar", "NoSuchOp", "fusec.elementwise"
    )
    assert error.exit_code == 4


def test_unknown_operators_inside_branches_are_found() -> None:
    branch = helper.make_graph([helper.make_node("Foo", ["x"], ["o"], domain="acme")], "b", [], [info("o")])
    m = model(
        [node("If", "c", "y", then_branch=branch, else_branch=branch)],
        [info("c", (), TensorProto.BOOL), info("x")],
        [info("y")],
        domains=[("acme", 1)],
    )
    fails(UnsupportedError, m, "acme::Foo")


def test_types_beyond_kernels_become_host_steps() -> None:
    m = model([node("Cast", "x", "s", to=TensorProto.STRING)], [info("x")], [info("s", (2, 3), TensorProto.STRING)])
    (n,) = read_model(m).nodes
    assert (n.op, n.attr("op_type")) == ("opaque", "Cast")
    assert "string" in n.attr("why")


# 13: structure


def broken(name: str) -> onnx.ModelProto:
    x, y = info("x"), info("y")
    r = "Relu"
    branch = helper.make_graph([node(r, "nowhere", "o")], "b", [], [info("o")])
    shadow = helper.make_graph([node(r, "x", "x")], "b", [], [info("x")])
    c = info("c", (), TensorProto.BOOL)
    twice = helper.make_graph([node(r, "x", "o"), node(r, "x", "o")], "b", [], [info("o")])
    return {
        "cycle": lambda: model(
            [node(r, "b", "a", name="n1"), node(r, "a", "b", name="n2"), node(r, "a", "y")], [x], [y]
        ),
        "duplicate": lambda: model([node(r, "x", "y", name="n1"), node(r, "x", "y", name="n2")], [x], [y]),
        "dangling": lambda: model([node(r, "ghost", "y", name="n1")], [x], [y]),
        "no producer": lambda: model([node(r, "x", "h", name="n1")], [x], [y]),
        "input twice": lambda: model([node(r, "x", "y")], [x, x], [y]),
        "initialiser twice": lambda: model([node(r, "x", "y")], [x], [y], [init("w", 1.0), init("w", 2.0)]),
        "overwrites input": lambda: model([node(r, "x", "x", name="n1")], [x], [info("x")]),
        "dangling in branch": lambda: model(
            [node("If", "c", "y", then_branch=branch, else_branch=branch)], [c, x], [y]
        ),
        "shadowing": lambda: model([node("If", "c", "y", then_branch=shadow, else_branch=shadow)], [c, x], [y]),
        "branch twice": lambda: model([node("If", "c", "y", then_branch=twice, else_branch=twice)], [c, x], [y]),
        "output without node": lambda: model([node("If", "c", "y", then_branch=branch)], [c], [info("z")]),
    }[name]()


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("cycle", "n1"),
        ("duplicate", "n2"),
        ("dangling", "ghost"),
        ("no producer", "'y'"),
        ("input twice", "'x'"),
        ("initialiser twice", "'w'"),
        ("overwrites input", "n1"),
        ("dangling in branch", "nowhere"),
        ("shadowing", "'x'"),
        ("branch twice", "'o'"),
        ("output without node", ""),
    ],
)
def test_broken_structure(name: str, word: str) -> None:
    fails(ModelError, broken(name), word)


def test_unsorted_nodes_are_sorted() -> None:
    g = read_model(model([node("Neg", "h", "y"), node("Relu", "x", "h")], [info("x")], [info("y")]))
    assert [n.op for n in g.nodes] == ["relu", "neg"]


# 14: graphs without nodes


def test_graphs_without_nodes() -> None:
    empty = onnx.ModelProto(ir_version=9, graph=onnx.GraphProto(name="g"), opset_import=[helper.make_opsetid("", 17)])
    assert read_model(empty).nodes == ()
    same = helper.make_model(
        helper.make_graph([], "g", [info("x")], [info("x")]), opset_imports=[helper.make_opsetid("", 17)]
    )
    g = read_model(same)
    assert [v.name for v in g.outputs] == ["x"]
    only = helper.make_model(
        helper.make_graph([], "g", [], [info("w", (2,))], [init("w", np.ones(2, "f"))]),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    assert [v.name for v in read_model(only).outputs] == ["w"]


# 15-17: shapes


def test_shape_contradictions_show_both_shapes() -> None:
    m = model([node("MatMul", "a b", "y", name="fc")], [info("a", (2, 3)), info("b", (4, 5))], [info("y", (2, 5))])
    fails(ModelError, m, "fc", "[2, 3]", "[4, 5]")
    m = model(
        [node("Relu", "a", "h", name="act"), node("Add", "h b", "y", name="sum")],
        [info("a", (2, 3)), info("b", (4, 5))],
    )
    fails(ModelError, m, "sum", "[2, 3]", "[4, 5]")
    m = model([node("Reshape", "x s", "y", name="r")], [info("x", (2, 3))], [info("y", None)], [init("s", [4, 2])])
    fails(ModelError, m, "r", "[2, 3]", "[4, 2]")


def test_wrong_declared_outputs_change_nothing() -> None:
    g = read_model(model([node("Relu", "x", "y")], [info("x", (2, 3))], [info("y", (7, 9, 1))]))
    assert str(g.outputs[0]) == "y: f32[2, 3]"


def test_symbols_stay_and_can_be_fixed() -> None:
    m = model([node("Relu", "x", "y")], [info("x", ("N", None, "2*N+1", -1))])
    assert str(read_model(m).outputs[0].type) == "f32[N, x_1, d2_N_1, x_3]"
    assert str(read_model(m, dims={"N": 4}).outputs[0].type) == "f32[4, x_1, d2_N_1, x_3]"
    assert str(read_model(m, shapes={"x": (4, 5, 6, 7)}).outputs[0].type) == "f32[4, 5, 6, 7]"
    fails(UsageError, m, "'M'", "N", dims={"M": 4})
    fails(UsageError, m, "'z'", shapes={"z": (1,)})
    fails(ModelError, m, "[1, 2]", shapes={"x": (1, 2)})
    fails(UsageError, m, "-3", dims={"N": -3})
    two = model([node("Add", "a b", "y")], [info("a", ("N",)), info("b", ("N",))])
    fails(ModelError, two, "f32[2]", "[3]", shapes={"a": (2,), "b": (3,)})


def test_zero_sizes_and_scalars() -> None:
    m = model([node("Add", "a b", "y")], [info("a", (0, 3)), info("b", ())])
    assert str(read_model(m).outputs[0].type) == "f32[0, 3]"
    fails(ModelError, model([node("Add", "a b", "y")], [info("a", (0,)), info("b", (2,))]), "[0]", "[2]")


# 18-20: sizes


@pytest.mark.parametrize("dims", [[-5], [2**40, 2**40], [2**62, 2], [1 << 33, 4]])
def test_senseless_initialisers(dims: list[int]) -> None:
    t = TensorProto(name="w", data_type=F32, dims=dims, raw_data=b"1234")
    start = time.monotonic()
    with pytest.raises((ModelError, ResourceError)):
        read_model(model([node("Add", "x w", "y")], [info("x")], inits=[t]))
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("count", [0, 1, 23, 25, 400])
def test_raw_data_of_the_wrong_length(count: int) -> None:
    t = TensorProto(name="w", data_type=F32, dims=[2, 3], raw_data=bytes(count))
    fails(ModelError, model([node("Add", "x w", "y")], [info("x")], inits=[t]), "'w'", "24 bytes", str(count))
    short = TensorProto(name="w", data_type=F32, dims=[2, 3], float_data=[1.0])
    fails(ModelError, model([node("Add", "x w", "y")], [info("x")], inits=[short]), "'w'")
    unknown = TensorProto(name="w", data_type=77, dims=[1], raw_data=b"a")
    fails(ModelError, model([node("Add", "x w", "y")], [info("x")], inits=[unknown]), "77")


HUGE = {
    "ConstantOfShape": lambda: model([node("ConstantOfShape", "s", "y")], [], inits=[init("s", [2**20, 2**20])]),
    "Expand": lambda: model([node("Expand", "x s", "y")], [info("x", (1, 1))], inits=[init("s", [2**20, 2**20])]),
    "Tile": lambda: model([node("Tile", "x s", "y")], [info("x", (1, 1))], inits=[init("s", [2**20, 2**20])]),
    "Range": lambda: model([node("Range", "a b c", "y")], [], inits=[init(n, v) for n, v in zip("abc", (0, 2**40, 1))]),
}


@pytest.mark.parametrize("op", HUGE)
def test_small_models_that_make_huge_tensors(op: str) -> None:
    error = fails(ResourceError, HUGE[op](), "TiB", "8.0 GiB", "--max-memory")
    assert error.exit_code == 9


# 21-25: depth and size


def function(name: str, calls: list[str]) -> onnx.FunctionProto:
    nodes = [helper.make_node(c, ["x" if i == 0 else f"h{i}"], [f"h{i + 1}"], domain="f") for i, c in enumerate(calls)]
    nodes.append(node("Identity", f"h{len(calls)}", "y"))
    return helper.make_function(
        "f", name, ["x"], ["y"], nodes, [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    )


def test_function_bomb() -> None:
    leaf = helper.make_function("f", "f0", ["x"], ["y"], [node("Relu", "x", "y")], [helper.make_opsetid("", 17)])
    bomb = [leaf, *(function(f"f{i}", [f"f{i - 1}"] * 2) for i in range(1, 31))]
    m = model([node("f30", "x", "y", domain="f")], [info("x")], functions=bomb, domains=[("f", 1)])
    start = time.monotonic()
    fails(ResourceError, m, "--max-nodes")
    assert time.monotonic() - start < 1


def test_recursive_functions() -> None:
    m = model(
        [node("a", "x", "y", domain="f")],
        [info("x")],
        functions=[function("a", ["b"]), function("b", ["a"])],
        domains=[("f", 1)],
    )
    fails(ModelError, m, "cycle", "f::a", "f::b")


def test_functions_are_inlined() -> None:
    m = model([node("two", "x", "y", domain="f")], [info("x")], functions=[function("two", ["one", "one"]), leaf_relu()],
              domains=[("f", 1)])  # fmt: skip
    g = read_model(m)
    assert [n.op for n in g.nodes] == ["relu", "relu"]
    assert [v.name for v in g.outputs] == ["y"]


def leaf_relu() -> onnx.FunctionProto:
    return helper.make_function("f", "one", ["x"], ["y"], [node("Relu", "x", "y")], [helper.make_opsetid("", 17)])


def nested_if(depth: int) -> onnx.ModelProto:
    inner = helper.make_graph([node("Relu", "x", "o0")], "b0", [], [info("o0")])
    for i in range(1, depth):
        n = node("If", "c", f"o{i}", then_branch=inner, else_branch=inner.__class__(name="e", output=[info("x")]))
        inner = helper.make_graph([n], f"b{i}", [], [info(f"o{i}")])
    other = helper.make_graph([node("Neg", "x", "z")], "e", [], [info("z")])
    return model(
        [node("If", "c", "y", then_branch=inner, else_branch=other)],
        [info("c", (), TensorProto.BOOL), info("x")],
        [info("y")],
    )


def test_nested_thirty_deep() -> None:
    (n,) = read_model(nested_if(30)).nodes
    assert n.attr("captures") == ("x", "c") or set(n.attr("captures")) == {"x", "c"}


def test_long_loops_are_not_unrolled() -> None:
    body = helper.make_graph(
        [node("Identity", "c", "c2"), node("Relu", "v", "v2")],
        "b",
        [info("i", (), TensorProto.INT64), info("c", (), TensorProto.BOOL), info("v")],
        [info("c2", (), TensorProto.BOOL), info("v2")],
    )
    m = model([node("Loop", "m - x", "y", body=body)], [info("x")], [info("y")], [init("m", np.int64(2**62))])
    (n,) = read_model(m).nodes
    assert n.attr("op_type") == "Loop"


def test_chain_of_a_hundred_thousand_nodes() -> None:
    n = 100_000
    nodes = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(n)]
    data = model(nodes, [info("v0", ("N", 3))], [info(f"v{n}")]).SerializeToString()
    start = time.monotonic()
    g = read_model(data)
    assert len(g.nodes) == n
    assert time.monotonic() - start < 60
    fails(ResourceError, data, "--max-nodes", limits=Limits(max_nodes=1000))


def test_many_initialisers_take_linear_time() -> None:
    def seconds(count: int) -> float:
        inits = [init(f"w{i}", np.float32(i)) for i in range(count)]
        nodes = [node("Add", "x w0", "y")]
        start = time.monotonic()
        read_model(model(nodes, [info("x")], inits=inits))
        return time.monotonic() - start

    seconds(1000)
    assert seconds(40_000) < 20 * max(seconds(4_000), 0.05)


# 26-27: names are data

NASTY = [
    '"); import os; os.system("touch pwned") #',
    "a\nb",
    "../../etc/passwd",
    "x" * 100_000,
    "lambda",
    "{0}%s%n",
    "\x1b[31mred\x1b]0;title\x07",
    "[/bold][red]",
    "\u202egnp.exe",
]


@pytest.mark.parametrize("name", NASTY, ids=range(len(NASTY)))
def test_nasty_names_pass_through_as_data(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    nodes = [
        helper.make_node("Relu", [name], [name + "h"], name=name),
        helper.make_node("Neg", [name + "h"], ["y"], doc_string=name),
    ]
    g = read_model(model(nodes, [info(name, (name, 3))], [info("y")]))
    assert g.inputs[0].name == name
    assert all(s.isidentifier() for d in g.inputs[0].shape if not isinstance(d, int) for s in d.symbols)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NASTY, ids=range(len(NASTY)))
def test_errors_strip_control_characters(name: str) -> None:
    bad = helper.make_node("MatMul", ["a", "b"], ["y"], name=name)
    error = fails(ModelError, model([bad], [info("a", (2, 3)), info("b", (4, 5))]))
    assert len(str(error)) < 2000
    unknown = helper.make_node(name, ["a"], ["y"], name=name)
    fails(UnsupportedError, model([unknown], [info("a")]))
    fails(ModelError, model([helper.make_node("Relu", [name], ["y"])], [info("a")]))


def test_text_that_is_not_utf8() -> None:
    data = relu_model().SerializeToString().replace(b"Relu", b"R\xff\xfeu")
    with pytest.raises(FusecError):
        read_model(data)


# 28: external data


def external(location: str, count: int = 24, **keys: str) -> onnx.ModelProto:
    t = TensorProto(name="w", data_type=F32, dims=[2, 3], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **keys}.items():
        if value is not None:
            t.external_data.add(key=key, value=value)
    del count
    return model([node("Add", "x w", "y")], [info("x")], inits=[t])


def saved(folder: Path, m: onnx.ModelProto) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "m.onnx").write_bytes(m.SerializeToString())
    return folder / "m.onnx"


def test_external_data_is_read(tmp_path: Path) -> None:
    data = np.arange(8, dtype=np.float32)
    folder = tmp_path / "model"
    path = saved(folder, external("sub/w.bin", offset="8", length="24"))
    (folder / "sub").mkdir()
    (folder / "sub" / "w.bin").write_bytes(data.tobytes())
    g = read_model(path)
    np.testing.assert_array_equal(g.weights["w"].array, data[2:].reshape(2, 3))
    assert not g.weights["w"].array.flags.writeable or g.weights["w"].array.base is not None
    digest = hashlib.sha1(data[2:].tobytes()).hexdigest()
    assert read_model(saved(folder, external("sub/w.bin", offset="8", length="24", checksum=digest)))
    fails(ModelError, saved(folder, external("sub/w.bin", offset="8", length="24", checksum="0" * 40)), "checksum")
    fails(ModelError, external("sub/w.bin").SerializeToString(), "path of the model file")


ATTACKS = {
    "parent": ("../secret.bin", {}, "folder"),
    "deep parent": ("sub/../../secret.bin", {}, "folder"),
    "absolute": ("/etc/passwd", {}, "relative"),
    "windows": ("C:\\secret.bin", {}, "relative"),
    "proc": ("/proc/self/mem", {}, "relative"),
    "symlink": ("link.bin", {}, "symbolic link"),
    "symlinked folder": ("linked/secret.bin", {}, "symbolic link"),
    "hard link": ("hard.bin", {}, "hard link"),
    "fifo": ("fifo", {}, "not a regular file"),
    "folder": ("sub", {}, "not a regular file"),
    "missing": ("none.bin", {}, "cannot open"),
    "short": ("short.bin", {}, "has 8"),
    "negative offset": ("good.bin", {"offset": "-4"}, "offset"),
    "huge offset": ("good.bin", {"offset": "9" * 18}, "has 64"),
    "senseless offset": ("good.bin", {"offset": "1e3"}, "offset"),
    "huge length": ("good.bin", {"length": "9" * 18}, "24 bytes"),
    "short length": ("good.bin", {"length": "8"}, "24 bytes"),
    "unknown key": ("good.bin", {"__class__": "os"}, "__class__"),
    "no location": ("", {}, "location"),
    "nul": ("good.bin\0x", {}, "relative"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_external_data_attacks(name: str, tmp_path: Path) -> None:
    location, keys, word = ATTACKS[name]
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    folder = tmp_path / "model"
    path = saved(folder, external(location, **keys))
    (folder / "good.bin").write_bytes(bytes(64))
    (folder / "short.bin").write_bytes(bytes(8))
    (folder / "sub").mkdir()
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "linked").symlink_to(tmp_path)
    os.link(tmp_path / "secret.bin", folder / "hard.bin")
    os.mkfifo(folder / "fifo")
    opened: list[str] = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" and active else None)
    active = True
    try:
        fails(ModelError, path, word)
    finally:
        active = False
    assert not any("secret" in o or "passwd" in o or "/proc" in o or "fifo" in o for o in opened)


def test_tensors_may_share_a_range(tmp_path: Path) -> None:
    m = external("w.bin")
    second = TensorProto()
    second.CopyFrom(m.graph.initializer[0])
    second.name = "v"
    m.graph.initializer.append(second)
    path = saved(tmp_path, m)
    (tmp_path / "w.bin").write_bytes(bytes(24))
    assert read_model(path).weights["w"].array.shape == (2, 3)


# 29-30


def test_hash_is_of_the_bytes_that_were_parsed(tmp_path: Path) -> None:
    data = relu_model().SerializeToString()
    (tmp_path / "m.onnx").write_bytes(data)
    loaded = load_source(tmp_path / "m.onnx")
    (tmp_path / "m.onnx").write_bytes(b"changed")
    assert loaded.sha256 == hashlib.sha256(data).hexdigest()
    assert loaded.proto.graph.node[0].op_type == "Relu"


def test_unknown_and_repeated_protobuf_fields_are_ignored() -> None:
    data = relu_model().SerializeToString()
    unknown = b"\xfa\x3f\x03abc"  # field 1023, bytes
    assert len(read_model(data + unknown).nodes) == 1
    assert len(read_model(b"\x08\x08" + data).nodes) == 1  # ir_version twice: the last one counts

"""Options that several verbs share, and how their texts are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import numpy as np
import numpy.typing as npt

from fusec.errors import InputError, UsageError, nearest
from fusec.knobs import PRECISIONS, Limits

if TYPE_CHECKING:
    from fusec.ir.requirement import Requirement

F = TypeVar("F", bound=Callable[..., Any])


def apply(decorators: Sequence[Callable[[F], F]]) -> Callable[[F], F]:
    """Several decorators as one, in reading order."""

    def decorate(f: F) -> F:
        for d in reversed(decorators):
            f = d(f)
        return f

    return decorate


output_options = apply(
    [
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout and nothing else."),
        click.option("-q", "--quiet", is_flag=True, help="Say nothing but results and errors."),
        click.option("--traceback", is_flag=True, hidden=True, help="Show Python's traceback of an error."),
    ]
)
compile_options = apply(
    [
        click.option(
            "--device",
            default=None,
            metavar="NAME",
            help="cpu, cpu:avx2, cuda, cuda:sm_90, cuda:sm_90-emulated, or a plug-in's.  [default: cpu]",
        ),
        click.option("--dim", "dims", multiple=True, metavar="N=1", help="Give a symbolic dimension a number."),
        click.option("--shape", "shapes", multiple=True, metavar="x:1x3", help="Give an input a shape."),
        click.option("-P", "--passes", default="", metavar="+a,-b", help="Switch passes on and off; see fusec passes."),
        click.option("--unfused", is_flag=True, help="One kernel and one launch per operator."),
        click.option(
            "--precision",
            type=click.Choice(PRECISIONS),
            default="f32",
            help="tf32: round factors of float32 products to 10 bits on a GPU.  [default: f32]",
        ),
        click.option(
            "--no-assume", is_flag=True, help="Take no symbolic sizes to be equal where they could broadcast."
        ),
        click.option("--max-memory", default=None, metavar="8GiB", help="Largest tensor and arena."),
        click.option("--max-nodes", type=click.IntRange(1), default=None, help="Most nodes, functions inlined."),
        click.option("--allow-newer-opset", is_flag=True, help="Read models of versions that onnx does not know."),
    ]
)
thread_option = click.option(
    "-t", "--threads", type=click.IntRange(1, 4096), default=None, help="Workers.  [default: all cores allowed]"
)
seed_option = click.option("--seed", type=int, default=0, show_default=True, help="Seed of made-up inputs.")
input_option = click.option(
    "-i", "--input", "inputs", multiple=True, metavar="x=@x.npy", help="An input: @file.npy, rand, or a number."
)
model_argument = click.argument("model", type=click.Path(path_type=str))


def parse_dims(texts: Sequence[str]) -> dict[str, int]:
    """`N=1` pairs. UsageError where one is not."""
    out: dict[str, int] = {}
    for text in texts:
        m = re.fullmatch(r"(.+)=(\d+)", text)
        if m is None:
            raise UsageError(f"--dim {text!r} is not of the form NAME=NUMBER")
        out[m[1]] = int(m[2])
    return out


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`x:1x3x224x224`, `x[1,3]` or `x=1,3`. UsageError where one is none of these."""
    out: dict[str, tuple[int, ...]] = {}
    for text in texts:
        m = re.fullmatch(r"(.+?)(?::|=|\[)(\d+(?:[x,]\s*\d+)*)?\]?", text)
        if m is None:
            raise UsageError(f"--shape {text!r} is not of the form NAME:1x3x224x224")
        out[m[1]] = tuple(int(d) for d in re.split(r"[x,]\s*", m[2])) if m[2] else ()
    return out


def read_inputs(texts: Sequence[str], names: Sequence[str]) -> dict[str, npt.NDArray[Any] | float | None]:
    """`name=@file.npy`, `name=rand` (None), `name=0.5` (fill). UsageError or InputError name what is wrong."""
    out: dict[str, npt.NDArray[Any] | float | None] = {}
    for text in texts:
        name, found, what = text.partition("=")
        if not found:
            raise UsageError(f"--input {text!r} is not of the form NAME=@FILE, NAME=rand or NAME=NUMBER")
        if name not in names:
            raise InputError(f"unknown input {name!r}", hint=nearest(name, list(names)), input=name)
        if what.startswith("@"):
            out[name] = read_array(Path(what[1:]), name)
        elif what == "rand":
            out[name] = None
        else:
            try:
                out[name] = float(what)
            except ValueError as e:
                raise UsageError(f"--input {text!r}: {what!r} is neither @FILE, rand nor a number") from e
    return out


NPY = b"\x93NUMPY"
"""How an .npy file begins."""


def read_array(path: Path, name: str) -> npt.NDArray[Any]:
    """An array from a .npy file, or the entry `name` of a .safetensors file. InputError where it cannot be read."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            return load_file(path)[name]
        with path.open("rb") as f:
            if f.read(len(NPY)) != NPY:
                raise InputError(f"{path} is no .npy file", hint="numpy.save writes one", input=name, path=str(path))
        return np.load(path, allow_pickle=False)  # type: ignore[no-any-return]
    except InputError:
        raise
    except KeyError as e:
        raise InputError(f"{path} holds no tensor {name!r}", input=name, path=str(path)) from e
    except FileNotFoundError as e:
        raise InputError(f"no such file: {str(path)!r}", input=name, path=str(path)) from e
    except Exception as e:  # numpy and safetensors raise many kinds for a damaged file
        raise InputError(f"cannot read {path}: {e}", input=name, path=str(path)) from e


def complete_feeds(
    given: Mapping[str, npt.NDArray[Any] | float | None],
    inputs: Sequence[Any],
    requirements: Sequence[Requirement],
    seed: int,
    dims: Mapping[str, int],
    quiet: bool = False,
    limits: Limits | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """Given inputs, and seeded ones for the rest; symbols that given arrays fix hold for the others too.

    Sizes that nothing fixes are the least that meet the model's requirements, 1 where there are none; a line on stderr says
    so, unless `quiet`. ResourceError beyond the limits.
    """
    from fusec.cli.text import say
    from fusec.ir.dim import Dim
    from fusec.ir.types import TensorType
    from fusec.measure.feeds import choose_sizes, random_array

    sizes, rng, out = dict(dims), np.random.default_rng(seed), dict[str, npt.NDArray[Any]]()
    for v in inputs:
        array = given.get(v.name)
        if isinstance(array, np.ndarray) and len(getattr(v.type, "shape", None) or ()) == array.ndim:
            plain = [(str(d), n) for d, n in zip(v.shape, array.shape, strict=True) if isinstance(d, Dim)]
            sizes.update((s, n) for s, n in plain if s.isidentifier())
    made_up = {v.name: v for v in inputs if not isinstance(given.get(v.name), np.ndarray)}
    shapes = [v.type.shape or () for v in made_up.values() if isinstance(v.type, TensorType)]
    unknown = {s for shape in shapes for d in shape if isinstance(d, Dim) for s in d.symbols} - set(sizes)
    chosen = choose_sizes(sorted(unknown), requirements, sizes)
    sizes |= chosen
    if unknown and not quiet:
        taken = ", ".join(f"{s}={n}" for s, n in chosen.items())
        say(f"sizes that nobody gave: {taken} (set them with --dim)")
    for v in inputs:
        value = given.get(v.name)
        if isinstance(value, np.ndarray):
            out[v.name] = value
        else:
            made = random_array(v, rng, sizes, limits)
            out[v.name] = made if value is None else np.full_like(made, value)
    return out

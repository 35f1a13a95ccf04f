"""Others on the same GPU: PyTorch eager, compiled and as a CUDA graph; cuBLAS through CuPy. What is absent is told.

Inputs lie on the device beforehand and outputs stay there, for everybody; a call ends when the device is done.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from bench.gpu.models import Array, Made

Subject = Callable[[], Any]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True, eq=False)
class Running:
    """A subject, and how its last outputs come to the host, to be compared."""

    run: Subject
    outputs: Callable[[], list[Array]]


def torch_rivals(made: Made, device: str, notes: list[str]) -> dict[str, Running]:
    """PyTorch's ways to run a model; `notes` says what could not be done."""
    if find_spec("torch") is None:
        notes.append("PyTorch is not installed: no torch columns")
        return {}
    torch: Any = import_module("torch")
    if device == "cuda" and not torch.cuda.is_available():
        notes.append("PyTorch sees no CUDA device: no torch columns")
        return {}
    torch.set_grad_enabled(False)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # float32 means float32
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def put(array: Array) -> Any:
        return _tensor(torch, array).to(device)

    function = made.torch(torch, put)
    if isinstance(function, torch.nn.Module):
        function = function.to(device)
    inputs = [put(a) for a in made.feeds.values()]
    makers: dict[str, Callable[[], Callable[[], Any]]] = {"torch eager": lambda: lambda: function(*inputs)}
    if device == "cuda":
        makers["torch.compile"] = lambda: _compiled(torch, function, inputs)
        makers["torch graph"] = lambda: _captured(torch, function, inputs)
    out = {}
    for name, make in makers.items():
        try:
            out[name] = _running(make(), wait)
            out[name].run()
        except Exception as e:  # compilers have errors of their own
            out.pop(name, None)
            notes.append(f"{name} cannot run this: {(str(e).strip().splitlines() or [type(e).__name__])[-1][:200]}")
    return out


def _running(call: Callable[[], Any], wait: Callable[[], None]) -> Running:
    last: list[Any] = []

    def run() -> None:
        last[:] = call()
        wait()

    return Running(run, lambda: [_array(t) for t in last])


def _compiled(torch: Any, function: Any, inputs: list[Any]) -> Callable[[], Any]:
    """torch.compile at its best, which uses CUDA graphs itself."""
    compiled = torch.compile(function, mode="max-autotune")

    def run() -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return compiled(*inputs)

    for _ in range(3):
        run()
    return run


def _captured(torch: Any, function: Any, inputs: list[Any]) -> Callable[[], Any]:
    """The eager model, captured once; its inputs are where they were."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            function(*inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = function(*inputs)

    def run() -> Any:
        graph.replay()
        return outputs

    return run


def _tensor(torch: Any, array: Array) -> Any:
    if array.dtype == BFLOAT16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.ascontiguousarray(array).copy())


def _array(tensor: Any) -> Array:
    wide: npt.NDArray[Any] = tensor.float().cpu().numpy() if tensor.is_floating_point() else tensor.cpu().numpy()
    return wide


def cublas(m: int, n: int, k: int, dtype: str, notes: list[str] | None = None) -> Running | None:
    """cuBLAS' product of random matrices, float32 without TF32 or bfloat16 with float32 sums; None where CuPy has none."""
    try:
        return _cublas(m, n, k, dtype)
    except Exception as e:
        if notes is not None:
            notes.append(f"cuBLAS cannot be called: {type(e).__name__}: {str(e).strip().splitlines()[0][:200]}")
        return None


_TYPES = {"float32": (np.float32, 0), "bfloat16": (BFLOAT16, 14)}
"""Element type, and its name as a cudaDataType_t: CUDA_R_32F, CUDA_R_16BF."""
_COMPUTE_32F, _DEFAULT_ALGORITHM = 68, -1


def _cublas(m: int, n: int, k: int, dtype: str) -> Running:
    """C = A B of row-major matrices is C' = B' A' of cuBLAS' column-major ones."""
    cupy: Any = import_module("cupy")
    library: Any = import_module("cupy_backends.cuda.libs.cublas")
    kind, code = _TYPES[dtype]
    rng = np.random.default_rng(0)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        a, b = (_on_device(cupy, rng.standard_normal(s, dtype=np.float32).astype(kind)) for s in ((m, k), (k, n)))
        c = _on_device(cupy, np.zeros((m, n), kind))
        handle = cupy.cuda.Device().cublas_handle
    stream.synchronize()
    one, zero = ctypes.c_float(1), ctypes.c_float(0)

    def run() -> None:
        with stream:  # CuPy tells cuBLAS its current stream with every call
            library.gemmEx(
                handle, 0, 0, n, m, k, ctypes.addressof(one), b.ptr, code, n, a.ptr, code, k, ctypes.addressof(zero),
                c.ptr, code, n, _COMPUTE_32F, _DEFAULT_ALGORITHM,
            )  # fmt: skip
        stream.synchronize()

    return Running(run, lambda: [])


def _on_device(cupy: Any, array: Array) -> Any:
    """Memory with an array's bytes."""
    pointer = cupy.cuda.alloc(array.nbytes)
    host = np.ascontiguousarray(array)
    cupy.cuda.runtime.memcpy(pointer.ptr, host.ctypes.data, host.nbytes, cupy.cuda.runtime.memcpyHostToDevice)
    return pointer

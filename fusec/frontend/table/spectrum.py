"""Rows of Fourier transforms, as products with a matrix of sines and cosines, and of the windows before them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fusec.frontend.attributes import dtype_of
from fusec.frontend.builder import NotNative
from fusec.frontend.call import Call, row
from fusec.ir.graph import Value

LONGEST = 2048
"""Up to this length a product is about as fast as a fast transform on the host, and can be fused."""
COSINES = {
    "HannWindow": (0.5, -0.5),
    "HammingWindow": (25 / 46, -21 / 46),
    "BlackmanWindow": (0.42, -0.5, 0.08),
}
"""Windows as sums of cosines."""


@row(*COSINES)
def _window(call: Call) -> Value:
    (size,) = call.ints(0)
    dtype = dtype_of(int(call.attr("output_datatype", 1)), call.origin[0])
    if not dtype.is_native:
        raise NotNative(f"kernels cannot make {dtype}")
    if size < 0:
        raise call.error(f"size {size} is negative")
    call.builder.limits.check_bytes(size * 8, f"{call.op_type} {call.origin[0]!r}")
    length = size if call.attr("periodic", 1) else size - 1
    turns = np.arange(size) * 2 * np.pi / max(length, 1)
    out = sum(a * np.cos(k * turns) for k, a in enumerate(COSINES[call.op_type]))
    return call.builder.constant(np.asarray(out).astype(dtype.numpy))


def transformed(call: Call, x: Value, complex_input: bool, size: int, onesided: bool) -> Value:
    """The transform along the last axis but one of [..., size, 1 or 2]: [..., frequencies, 2]."""
    if size > LONGEST:
        raise NotNative(f"a transform of {size} elements")
    matrix = _fourier(size, onesided)
    parts = [_plane(call, x, j) for j in range(2 if complex_input else 1)]
    c, s = (call.builder.constant(np.ascontiguousarray(m).astype(x.dtype.numpy)) for m in (matrix.real, matrix.imag))
    real, imaginary = call.matmul(parts[0], c), call.matmul(parts[0], s)
    if complex_input:
        real = call.emit("sub", real, call.matmul(parts[1], s))
        imaginary = call.emit("add", imaginary, call.matmul(parts[1], c))
    return call.concat([call.reshape(v, (*v.shape, 1)) for v in (real, imaginary)], len(real.shape))


def _fourier(size: int, onesided: bool) -> npt.NDArray[np.complex128]:
    frequencies = np.arange(size // 2 + 1 if onesided else size)
    turns = np.outer(np.arange(size), frequencies) % size / size
    out: npt.NDArray[np.complex128] = np.exp(-2j * np.pi * turns)
    return out


def _plane(call: Call, x: Value, j: int) -> Value:
    lead = x.shape[:-1]
    if x.shape[-1] == 1:
        return call.reshape(x, lead)
    starts, sizes = (*(0,) * len(lead), j), (*lead, 1)
    return call.reshape(call.emit("slice", x, starts=starts, sizes=sizes, steps=(1,) * len(sizes)), lead)


@row("DFT")
def _dft(call: Call) -> Value:
    x = call.x(0)
    rank = len(x.shape)
    if rank < 2 or x.shape[-1] not in (1, 2):
        raise call.error(f"the last axis must hold real and imaginary parts, got {x.type}")
    if call.version >= 20:
        axis = call.ints(2)[0] if call.has(2) else -2
    else:
        axis = int(call.attr("axis", 1))
    axis = call.axis(axis, rank)
    if call.attr("inverse", 0):
        raise NotNative("an inverse transform")
    if axis == rank - 1:
        raise call.error(f"axis {axis} holds real and imaginary parts")
    if call.attr("onesided", 0) and x.shape[-1] == 2:
        raise call.error("onesided takes real input, not complex numbers")
    n = x.shape[axis]
    size = call.ints(1)[0] if call.has(1) else n
    if not isinstance(n, int) or not isinstance(size, int):
        raise NotNative(f"a transform of {size} elements")
    if size < 1:
        raise call.error(f"dft_length is {size}")
    perm = (*(i for i in range(rank - 1) if i != axis), axis, rank - 1)
    y = call.transpose(x, perm)
    if size < n:
        y = call.emit("slice", y, starts=(0,) * rank, sizes=(*y.shape[:-2], size, y.shape[-1]), steps=(1,) * rank)
    elif size > n:
        after = (*(0,) * (rank - 2), size - n, 0)
        y = call.emit("pad", y, before=(0,) * rank, after=after, mode="constant")
    out = transformed(call, y, y.shape[-1] == 2, size, bool(call.attr("onesided", 0)))
    return call.transpose(out, sorted(range(rank), key=lambda i: perm[i]))


@row("STFT")
def _stft(call: Call) -> Value:
    x = call.x(0)
    (step,) = call.ints(1)
    window = call.maybe(2)
    rank = len(x.shape)
    if rank not in (2, 3):
        raise call.error(f"a signal is [batch, length, 1 or 2], got {x.type}")
    x = call.reshape(x, (*x.shape, 1)) if rank == 2 else x
    length = call.ints(3)[0] if call.has(3) else window.shape[0] if window is not None else None
    if not isinstance(length, int) or step < 1 or length < 1:
        raise call.error(f"frame_length {length} and frame_step {step} must be at least 1")
    if window is not None and window.shape != (length,):
        raise call.error(f"window {window.type} does not have frame_length {length}")
    call.require(x.shape[1], length, f"frame_length {length} is more than the signal's length, which is")
    frames = call.emit("windows", x, axes=(1,), sizes=(length,), strides=(step,), dilations=(1,))
    frames = call.transpose(frames, (0, 1, 3, 2))
    if window is not None:
        frames = call.emit("mul", frames, call.cast(call.reshape(window, (length, 1)), x.dtype))
    return transformed(call, frames, x.shape[-1] == 2, length, bool(call.attr("onesided", 1)))

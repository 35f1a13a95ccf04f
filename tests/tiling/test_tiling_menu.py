"""The menu: what is tiled how, and that every kernel of it computes the right thing for the sizes that it takes."""

from __future__ import annotations

import numpy as np
import pytest

from fusec.ir.dim import symbol
from fusec.kernels.kernel import Kernel
from fusec.target import ISAS, Target
from fusec.tile.text import parse_program
from fusec.tiling.choose import choose, menu, needed
from fusec.tiling.cost import tile_microseconds

TARGETS = [Target("cpu", n) for n in ("generic", "avx2", "avx512", "neon")]
GEMM = """
program gemm(M, K, N)
task m: M, n: N
input x: f32[M, K]
weight w: f32[K, N]
output y: f32[M, N]
stage m, n
  t = sum[k: K](x[m, k] * w[k, n])
  y[m, n] = max(t, 0.0)
"""
CHAIN = """
program chain(M, K, L, N)
task m: M
input x: f32[M, K]
weight w: f32[K, L], v: f32[L, N]
local h: f32[M, L]
output y: f32[M, N]
stage m, l: L
  t = sum[k: K](x[m, k] * w[k, l])
  h[m, l] = max(t, 0.0)
stage m, n: N
  u = sum[l: L](h[m, l] * v[l, n])
  y[m, n] = u
"""
SOFTMAX = """
program softmax(M, N)
task m: M
input x: f32[M, N]
local t: f32[M], d: f32[M]
output y: f32[M, N]
stage m
  h = max[n: N](x[m, n])
  t[m] = h
stage m
  s = sum[n: N](exp(x[m, n] - t[m]))
  d[m] = 1.0 / s
stage m, n: N
  y[m, n] = exp(x[m, n] - t[m]) * d[m]
"""


def sizes(kernel: Kernel, **params: int) -> tuple[dict[str, int], int]:
    bound = kernel.bind(params)
    return bound.tile, bound.tiles


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_products_by_number_of_rows(target: Target) -> None:
    kernels = menu(parse_program(GEMM), target)
    for m, rows in [(0, 1), (1, 1), (2, 4), (4, 4)]:
        stage = choose(kernels, {"M": m, "K": 8, "N": 8}).tiling.stages[0]
        assert (stage.template, stage.rows) == ("contract", min(rows, stage.rows))
    assert choose(kernels, {"M": 5, "K": 8, "N": 8}).tiling.stages[0].rows == max(
        k.tiling.stages[0].rows for k in kernels
    )
    assert len({k.tiling.layouts for k in kernels}) == 1, "one layout of a weight for all sizes"
    ((name, layout),) = kernels[0].tiling.layouts
    assert name == "w"
    assert layout.factors[0].block == kernels[0].tiling.stages[0].vectors * ISAS[target.level].lanes


def test_tiles_of_products() -> None:
    kernels = menu(parse_program(GEMM), Target("cpu", "avx2"))
    tile, tiles = sizes(choose(kernels, {"M": 128}), M=128, K=384, N=384)
    assert tile["m"] == 128, "all rows share what is read of the weight"
    assert tile["n"] % 16 == 0
    assert 4 <= tiles <= 64
    for m, k, n in [
        (1, 256, 256),
        (128, 384, 384),
        (128, 1536, 384),
        (1024, 1024, 1024),
        (1, 0, 16),
        (0, 16, 16),
        (7, 1, 1),
    ]:
        kernel = choose(kernels, {"M": m, "K": k, "N": n})
        bound = kernel.bind({"M": m, "K": k, "N": n})
        assert bound.tile["n"] % 16 == 0 or bound.tile["n"] == n
        assert tile_microseconds(bound, Target("cpu", "avx2")) < 200
    assert sizes(choose(kernels, {"M": 1}), M=1, K=256, N=256)[1] >= 4, "small layers can be split"


def test_chains_keep_their_panel_small() -> None:
    kernels = menu(parse_program(CHAIN), Target("cpu", "avx2"))
    for width in (16, 1536, 100_000):
        kernel = choose(kernels, {"M": 128})
        tile = kernel.bind({"M": 128, "K": 384, "L": width, "N": 384}).tile["m"]
        assert 6 <= tile <= 66
        assert tile * width <= 1 << 17 or tile == 24
    assert {n for n, _ in kernels[0].tiling.layouts} == {"w", "v"}


def test_row_programs() -> None:
    (kernel,) = menu(parse_program(SOFTMAX), Target("cpu", "avx2"))
    assert [s.lane for s in kernel.tiling.stages] == ["n", "n", "n"]
    assert sizes(kernel, M=1000, N=512)[0]["m"] == 7
    assert sizes(kernel, M=1000, N=1 << 20)[0]["m"] == 1
    assert sizes(kernel, M=1000, N=0)[0]["m"] > 1


def test_short_rows_have_lanes_across_them() -> None:
    program = parse_program(SOFTMAX)

    def lanes(calls: list[dict[str, object]], **params: int) -> set[str]:
        kernels = menu(program, TARGETS[1], calls)  # type: ignore[arg-type]
        return {s.lane for s in choose(kernels, params).tiling.stages}

    short: dict[str, object] = {"M": 4096, "N": 10}
    assert lanes([short], M=4096, N=10) == lanes([short], M=3, N=0) == {"m"}
    assert lanes([short], M=4096, N=16) == lanes([{"M": 4, "N": 10}], M=4, N=10) == {"n"}
    assert lanes([{"M": 9, "N": symbol("N")}], M=9, N=10) == {"n"}, "what may never come has no kernel of its own"
    text = "program p(M, N)\ntask m: M\ninput x: f32[M, N]\noutput y: f32[M]\nstage m\n  s = max[n: N](x[m, n])\n  y[m] = s\n"
    for fold, longest in (("max", 20), ("sum", 12)):
        kernels = menu(parse_program(text.replace("max", fold)), TARGETS[1], [short])
        assert [k.tiling.stages[0].lane for k in kernels] == ["m", "n"]
        assert kernels[0].tiling.guard is not None
        assert kernels[0].tiling.guard.high == longest
    (kernel,) = menu(parse_program(SOFTMAX.replace("M, N)", "M)").replace("N", "10")), TARGETS[1], [{"M": symbol("B")}])
    assert {s.lane for s in kernel.tiling.stages} == {"m"}


def test_short_rows_side_by_side_have_lanes_across_them() -> None:
    text = """
program concat(I, C)
task i: I
input x: f32[I, 3], z: f32[I, C]
output y: f32[I, C + 3]
stage i, c: 3
  y[i, c] = x[i, c]
stage i, d: C
  y[i, d + 3] = z[i, d]
"""
    kernels = menu(parse_program(text), TARGETS[1], [{"I": 4096, "C": 5}])
    assert [{s.lane for s in k.tiling.stages} for k in kernels] == [{"i"}, {"c", "d"}]
    assert len(menu(parse_program(text), TARGETS[1], [{"I": 4096, "C": 8}])) == 1
    assert len(menu(parse_program(text.replace(" 3", " 9")), TARGETS[1], [{"I": 4096, "C": 5}])) == 1


def test_lanes_follow_memory() -> None:
    columns = parse_program(
        "program p(M, N)\ntask n: N\ninput x: f32[M, N]\noutput y: f32[N]\nstage n\n  s = sum[m: M](x[m, n])\n  y[n] = s\n"
    )
    assert menu(columns, TARGETS[1])[0].tiling.stages[0].lane == "n"
    rows = parse_program(
        "program p(M, N)\ntask m: M\ninput x: f32[M, N]\noutput y: f32[M]\nstage m\n  s = sum[n: N](x[m, n])\n  y[m] = s\n"
    )
    assert menu(rows, TARGETS[1])[0].tiling.stages[0].lane == "n"


def test_maps_have_whole_vectors() -> None:
    program = parse_program("program p(N)\ntask n: N\ninput x: f32[N]\noutput y: f32[N]\nstage n\n  y[n] = exp(x[n])\n")
    (kernel,) = menu(program, TARGETS[1])
    assert sizes(kernel, N=100_000) == ({"n": 4096}, 25)
    assert sizes(kernel, N=3) == ({"n": 3}, 1)


def test_weights_read_in_two_ways_stay_as_they_are() -> None:
    both = CHAIN.replace("v: f32[L, N]", "v: f32[L, N]").replace("y[m, n] = u", "y[m, n] = u + w[0, n]")
    assert {n for n, _ in menu(parse_program(both), TARGETS[1])[0].tiling.layouts} == {"v"}
    shared = CHAIN.replace("v[l, n]", "w[l, n]").replace(", v: f32[L, N]", "")
    assert {n for n, _ in menu(parse_program(shared), TARGETS[1])[0].tiling.layouts} == {"w"}


def test_one_row_against_a_computed_matrix_is_a_nest() -> None:
    text = GEMM.replace("weight w: f32[K, N]", "input w: f32[N, K]").replace("w[k, n]", "w[n, k]")
    kernels = menu(parse_program(text), TARGETS[1])
    stage = choose(kernels, {"M": 1}).tiling.stages[0]
    assert (stage.template, stage.lane) == ("nest", "k")
    assert choose(kernels, {"M": 9}).tiling.stages[0].template == "contract"


def test_known_extents_give_one_kernel() -> None:
    for m, rows in ((5, 5), (8, 6)):
        text = GEMM.replace("M, K, N)", "K, N)").replace("m: M", f"m: {m}").replace("[M,", f"[{m},")
        (kernel,) = menu(parse_program(text), TARGETS[1])
        assert kernel.tiling.stages[0].rows == rows
    for columns, template in (("1", "contract"), ("2", "nest")):
        text = GEMM.replace("M, K, N)", "K)").replace("M", "8").replace("N", columns)
        (few,) = menu(parse_program(text), TARGETS[1])
        assert (few.tiling.stages[0].template, few.tiling.layouts) == (template, ())


def test_estimates_grow_with_the_work() -> None:
    (kernel,) = menu(parse_program(SOFTMAX), TARGETS[1])
    times = [
        tile_microseconds(kernel.bind({"M": 100, "N": n}), TARGETS[1]) * kernel.bind({"M": 100, "N": n}).tiles
        for n in (10, 100, 1000)
    ]
    assert np.all(np.diff(times) > 0)
    assert tile_microseconds(kernel.bind({"M": 0, "N": 4}), TARGETS[1]) == 0


def test_numbers_of_rows_that_occur_get_register_tiles() -> None:
    calls = [{"M": m, "K": 4, "N": 64} for m in (1, 3, 5, 49, 64, symbol("B"))]
    kernels = menu(parse_program(GEMM), TARGETS[1], calls)
    rows = [k.tiling.stages[0].rows for k in needed(kernels, calls)]
    assert rows == [1, 3, 5, 6, 6, 4, 6]
    for m, expected in ((2, 4), (3, 3), (5, 5), (8, 6), (49, 6), (64, 6)):
        assert choose(kernels, {"M": m}).tiling.stages[0].rows == expected
    assert len(needed(kernels, calls[3:5])) == 2


def test_only_the_sizes_that_occur_need_kernels() -> None:
    kernels = menu(parse_program(GEMM), TARGETS[1])
    assert needed(kernels, [{"M": 1, "K": 4, "N": 4}]) == kernels[:1]
    assert needed(kernels, [{"M": 128, "K": 4, "N": 4}, {"M": 1, "K": symbol("K"), "N": 4}]) == (kernels[0], kernels[2])
    assert needed(kernels, [{"M": symbol("B"), "K": 4, "N": 4}]) == kernels
    (one,) = menu(parse_program(SOFTMAX), TARGETS[1])
    assert needed([one], [{"M": 4, "N": 4}]) == (one,)


WINDOW = """
program window(I, J, P)
task i: I, j: J, p: P
input x: f32[I, J, P]
weight w: f32[{k}*{k}, P]
output y: f32[I, J, P]
stage i, j, p
  t = sum[r: {k}, s: {k}](pad(x[i + r - 1, j + s - 1, p], 0.0) * w[{k}*r + s, p])
  y[i, j, p] = t
"""


def test_windows_are_computed_side_by_side_in_whole_rows() -> None:
    for k, rows in ((3, 4), (5, 6)):
        (kernel,) = menu(parse_program(WINDOW.format(k=k)), Target("cpu", "avx2"))
        (stage,) = kernel.tiling.stages
        assert (stage.lane, stage.rows) == ("p", rows)
        assert kernel.bind({"I": 56, "J": 56, "P": 144}).tile == {"i": 1, "j": 56, "p": 144}


def test_transposes_come_in_square_tiles() -> None:
    text = "program t(I, J)\ntask i: I, j: J\ninput x: f32[J, I]\noutput y: f32[I, J]\nstage i, j\n  y[i, j] = x[j, i]"
    (kernel,) = menu(parse_program(text), Target("cpu", "avx2"))
    assert kernel.bind({"I": 1000, "J": 500}).tile == {"i": 64, "j": 64}


def test_few_columns_get_panels_of_one_vector() -> None:
    program = parse_program(GEMM)

    def shape(*columns: object) -> tuple[int, int]:
        stage = menu(program, TARGETS[1], [{"M": 48, "K": 4, "N": n} for n in columns])[-1].tiling.stages[0]
        return stage.rows, stage.vectors

    assert shape(8) == shape(24) == shape(24, 40) == (12, 1)
    assert shape(16) == shape(24, 64) == shape(96) == shape(symbol("S")) == (6, 2)

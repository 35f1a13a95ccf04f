"""The estimates of what slices bring: none where a product fills a device, some where it does not."""

import pytest

from bench.gpu.models import gemm
from bench.gpu.slices import compared


@pytest.mark.parametrize(
    ("sizes", "kernels"), [((64, 64, 4096), 2), ((1, 512, 512), 1)], ids=["few tiles", "many columns"]
)
def test_estimates(sizes, kernels):
    whole, sliced = compared(gemm(*sizes, "f32").model, "sm_90", "f32", {})
    assert (whole.kernels, sliced.kernels) == (1, kernels)
    assert 0 < whole.share <= 1
    assert 0 < sliced.share <= 1
    if kernels == 1:
        assert sliced == whole
    else:
        assert sliced.microseconds < whole.microseconds

"""Tests of this folder share modules that stand beside them, and what they compile."""

import os
import sys
from pathlib import Path

import pytest

from fusec.cache import ObjectCache

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def kept():
    """The test run's cache: the emulator's runtime is compiled once for all workers."""
    return ObjectCache(os.environ["FUSEC_CACHE_DIR"])

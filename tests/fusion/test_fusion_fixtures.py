"""A title, a graph and the fused graph that one rule makes of it, in tests/fixtures/passes/fuse_*.txt.

Each pair is compared as text, checked as a partition, and run group by group against the reference.
"""

from pathlib import Path

import pytest

from fusec.ir.text import parse_graph
from fusec.passes.default import FUSION_PASSES
from fusec.rewrite.fusion import fuse, get_fusion_pass
from fusec.rewrite.text import parse_fused

FOLDER = Path(__file__).parent.parent / "fixtures" / "passes"


def cases():
    for file in sorted(FOLDER.glob("fuse_*.txt")):
        for block in file.read_text().strip().split("\n\n"):
            title, before, after = block.splitlines()
            yield pytest.param(file.stem.replace("_", "-"), before, after, id=f"{file.stem}: {title[2:]}")


@pytest.mark.parametrize(("name", "before", "after"), list(cases()))
def test_fusion_pass(fusing, name, before, after):
    rules = FUSION_PASSES if name == "fuse-default" else [get_fusion_pass(name)]
    fused = fuse(parse_graph(before), rules, fusing.context)
    assert str(fused) == str(parse_fused(after))
    fusing.check_partition(fused)
    fusing.check_same_results(fused)


def test_every_rule_has_fixtures():
    names = {f.stem.replace("_", "-") for f in FOLDER.glob("fuse_*.txt")}
    assert {p.name for p in FUSION_PASSES} <= names
    assert all(p.doc for p in FUSION_PASSES)

"""A trace times stages, climbs the debug ladder and writes numbered files; it holds no global state."""

import pytest

from fusec.knobs import Knobs
from fusec.trace import IR, STAGES, Trace


def test_stages_nest_and_count():
    t = Trace()
    with t.stage("outer"), t.stage("inner") as counts:
        counts["nodes"] = 3
    inner, outer = t.records
    assert (inner.name, inner.within, inner.counts) == ("inner", ("outer",), (("nodes", 3),))
    assert (outer.name, outer.within) == ("outer", ())
    assert 0 <= inner.seconds <= outer.seconds
    assert "nodes=3" in t.report()


def test_a_stage_that_fails_leaves_no_record():
    t = Trace()
    with pytest.raises(ValueError), t.stage("bad"):
        raise ValueError
    with t.stage("good"):
        pass
    assert [(r.name, r.within) for r in t.records] == [("good", ())]


def test_the_ladder_shows_what_it_reaches():
    said, made = [], []

    def text():
        made.append(1)
        return "text"

    t = Trace(debug=STAGES, show=said.append)
    with t.stage("read"):
        t.log(IR, text)
    t.log(STAGES, text)
    assert len(said) == 2
    assert said[0].startswith("read")
    assert made == [1]


def test_dumps_are_numbered_files(tmp_path):
    t = Trace(folder=tmp_path / "new")
    t.dump("fold-constants", "graph", lambda: "one\n\n")
    t.dump("a/b c", "txt", lambda: "two")
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["000-fold-constants.graph", "001-a_b_c.txt"]
    assert (tmp_path / "new" / "000-fold-constants.graph").read_text() == "one\n"
    assert Trace().dump("x", "txt", lambda: 1 / 0) is None


def test_knobs_set_it_up(tmp_path):
    t = Trace.from_knobs(Knobs(debug=3, dump=tmp_path))
    assert (t.debug, t.folder) == (3, tmp_path)

"""`loadtest many`: what counts as a goal reached, and a first look on tiny bases."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from multigraft_loadtest.cli import loadtest
from multigraft_loadtest.goals import cells, goal, has_missed
from multigraft_loadtest.many.command import PARTS, choose
from multigraft_loadtest.many.measured import Sizes
from multigraft_loadtest.many.slots import workload_of, worst_tail
from multigraft_loadtest.problems import CannotStartError
from tests.tiny import make_tiny_base


def test_a_goal_is_met_missed_told_or_not_measured() -> None:
    rows = [
        goal("a", 0.7, 0.7, at_least=True),
        goal("b", 151, 150),
        goal("c", 3.0),
        goal("d", None, 1.0),
    ]
    assert [row["verdict"] for row in rows] == ["met", "MISSED", "told", "not measured"]
    assert has_missed(rows) and not has_missed([rows[0], *rows[2:]])
    assert cells(rows[1]) == ("b", "151", "≤ 150", "MISSED")
    assert cells(rows[3])[1] == "-"


def test_the_worst_task_s_tail_leaves_out_tasks_that_were_hardly_asked() -> None:
    waits = {"calm": [1.0] * 10, "uneven": [1.0] * 9 + [5.0], "rare": [1.0, 100.0]}
    assert worst_tail(waits) == pytest.approx(4.64)
    assert worst_tail({"rare": [1.0, 100.0]}) is None


def test_tasks_are_asked_by_zipf_s_law_and_each_once_before_the_first_round() -> None:
    sizes = Sizes.usual(None, is_quick=True)
    names = [f"t{number}" for number in range(8)]
    first = workload_of("G", names, (), sizes, seed=0, is_first=True)
    assert [request.task for request in first.warm_up_requests()] == names
    asked = Counter(request.task for request in first.requests())
    assert asked["t0"] > asked["t7"]
    assert not workload_of("G", names, (), sizes, seed=0, is_first=False).warm_up_requests()


def test_parts_are_chosen_by_name() -> None:
    assert choose(None) == list(PARTS)
    assert choose("cold, c") == ["cold", "c"]
    with pytest.raises(CannotStartError, match="nothing"):
        choose("nothing")


@pytest.mark.slow
def test_a_first_look_at_many_tasks_on_a_tiny_base_tells_every_row(tmp_path: Path) -> None:
    base, file = make_tiny_base(tmp_path / "tiny", "bert"), tmp_path / "many.json"
    options = ["--quick", "--parts", "c,registered", "--encoder", str(base), "--json", str(file)]
    folder = ["--data-dir", str(tmp_path / "data")]
    done = CliRunner().invoke(loadtest, ["many", *options, *folder, "--", "--dtype", "float32"])
    assert done.exit_code == 0, done.output
    rows = json.loads(file.read_text())["rows"]
    assert len(rows) == 11
    assert all(row["figure"] is not None and row["figure"] > 0 for row in rows)

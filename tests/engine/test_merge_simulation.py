"""The simulator of merging: traces replayed against tables of costs, and the commands that do it."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner

from multigraft_adapters.errors import InvalidRequestError
from multigraft_server.bench.__main__ import main
from multigraft_server.bench.merge_simulation import MODES, simulate
from multigraft_server.bench.merge_traces import SMOLLM2, Arrival, draw_trace, read_costs, read_trace, write_trace
from multigraft_server.engine.merge_costs import MergeCosts, PassSeconds
from multigraft_server.engine.merge_policy import PolicySettings, Thresholds

SAME = {1: 0.01, 512: 0.2}
WORTHLESS = MergeCosts(PassSeconds.of(SAME), PassSeconds.of(SAME), 0.1)


def trace(share: float, cv: float = 1.0) -> list[Arrival]:
    return list(draw_trace(share=share, rate=8.0, seconds=60.0, cv=cv))


@pytest.mark.parametrize(("share", "least"), [(1.0, 1.1), (0.95, 1.04), (0.8, 0.98), (0.5, 0.98), (0.2, 0.98)])
@pytest.mark.parametrize("cv", [1.0, 4.0])
def test_the_policy_stays_close_to_the_better_of_never_and_always(share: float, least: float, cv: float) -> None:
    told = {mode: simulate(trace(share, cv), SMOLLM2, mode) for mode in MODES}
    never, always, auto = (told[mode].tokens_per_s for mode in MODES)
    assert auto >= least * never
    assert auto >= 0.97 * max(never, always)


def test_what_is_merged_does_not_change_who_is_answered_when_all_have_come() -> None:
    arrivals = [Arrival(0.0, one.task, one.prompt_tokens, one.answer_tokens) for one in trace(0.7)]
    orders = {mode: simulate(arrivals, SMOLLM2, mode).order for mode in MODES}
    assert len(orders["never"]) == len(arrivals)
    assert orders["never"] == orders["always"] == orders["auto"]


def test_where_a_merge_saves_nothing_there_is_none() -> None:
    told = simulate(trace(1.0), WORTHLESS, "auto")
    assert (told.switches, told.merged_s) == (0, 0.0)


def test_switches_are_as_rare_as_the_policy_says() -> None:
    arrivals = [Arrival(1.0 * second, f"task-{second // 3}", 75, 16) for second in range(60) for _ in range(8)]
    told = simulate(arrivals, SMOLLM2, "auto")
    between = Thresholds.of(SMOLLM2, PolicySettings()).between_s
    assert 1 < told.switches <= 1 + arrivals[-1].at_s / between


def test_a_trace_has_the_share_the_rate_and_the_bursts_that_it_is_drawn_with() -> None:
    drawn = list(draw_trace(share=0.8, rate=20.0, seconds=500.0, cv=4.0, seed=3))
    assert len(drawn) == pytest.approx(10_000, rel=0.15)
    assert sum(one.task == "hot" for one in drawn) / len(drawn) == pytest.approx(0.8, abs=0.05)
    gaps = [later.at_s - earlier.at_s for earlier, later in pairwise(drawn)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert deviation / mean == pytest.approx(4.0, rel=0.2)


def test_a_trace_that_is_written_is_read_the_same(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text(write_trace(trace(0.5)))
    assert read_trace(file) == trace(0.5)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{}", "line 1"),
        ('{"at_s": -1, "task": "a", "prompt_tokens": 3}', "at_s"),
        ('{"at_s": 1, "task": "a", "prompt_tokens": 3, "more": 1}', "more"),
        ("", "no line"),
    ],
)
def test_a_bad_trace_is_refused_by_its_line(line: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text(line)
    with pytest.raises(InvalidRequestError, match=told):
        read_trace(file)


def test_a_table_of_costs_is_read_and_a_bad_one_refused(tmp_path: Path) -> None:
    file = tmp_path / "costs.json"
    file.write_text(json.dumps({"original": SAME, "merged": SAME, "switch_s": 0.1}))
    assert read_costs(file) == WORTHLESS
    file.write_text(json.dumps({"original": SAME, "switch_s": 0.1}))
    with pytest.raises(InvalidRequestError, match="merged"):
        read_costs(file)


def test_the_commands_draw_a_trace_and_replay_it(tmp_path: Path) -> None:
    run = CliRunner().invoke
    drawn = run(main, ["merge-trace", "--share", "1", "--seconds", "10", "--tasks", "2"])
    assert drawn.exit_code == 0, drawn.output
    (tmp_path / "trace.jsonl").write_text(drawn.output)
    told = run(main, ["merge-policy", str(tmp_path / "trace.jsonl"), "--json", str(tmp_path / "told.json")])
    assert told.exit_code == 0, told.output
    figures = json.loads((tmp_path / "told.json").read_text())
    assert set(figures) == set(MODES)
    assert figures["auto"]["tokens_per_s"] > figures["never"]["tokens_per_s"]

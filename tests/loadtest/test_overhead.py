"""What watching costs, as `loadtest overhead` compares it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from multigraft_loadtest.cli import loadtest
from multigraft_loadtest.figures import median_interval
from multigraft_loadtest.overhead import SERVERS, TWIN, UNWATCHED, WATCHED, compared, order_of
from tests.tiny import make_tiny_base


def test_each_server_has_each_turn_as_often_and_follows_each_other_as_often() -> None:
    orders = [order_of(number) for number in range(6)]
    assert all(sorted(order) == sorted(SERVERS) for order in orders)
    for place in range(3):
        assert set(Counter(order[place] for order in orders).values()) == {2}
    assert len({tuple(order) for order in orders}) == 6


def test_the_interval_of_a_median_holds_it_19_times_of_20() -> None:
    draw = np.random.default_rng(0)
    found = [median_interval(list(draw.exponential(size=40))) for _ in range(1000)]
    held = sum(low <= np.log(2) <= high for low, high in found)  # the median of what they are drawn from
    assert 930 <= held <= 985
    assert median_interval([3.0, 1.0]) == (1.0, 3.0)


def test_a_watched_server_is_held_against_the_mean_of_the_two_that_are_not() -> None:
    rates = {WATCHED: [90.0, 99.0, 97.0], UNWATCHED: [90.0, 100.0, 100.0], TWIN: [110.0, 100.0, 100.0]}
    costs = {WATCHED: [1.1] * 3, UNWATCHED: [1.0] * 3, TWIN: [1.2] * 3}
    rows = {row["what"].partition(": ")[2]: (row["figure"], row["verdict"]) for row in compared("C", rates, costs)}
    assert rows["throughput with metrics and JSON logs to that without"] == (pytest.approx(0.97), "MISSED")
    assert rows["its 95% interval, from"][0] == pytest.approx(0.9)
    assert rows["throughput of two servers without, the one to the other"][0] == 1.0
    assert rows["processor's time of a text or token, with to without"][0] == pytest.approx(1.0)


@pytest.mark.slow
def test_a_first_look_on_a_tiny_base_tells_every_row(tmp_path: Path) -> None:
    base, file = make_tiny_base(tmp_path / "tiny", "bert"), tmp_path / "overhead.json"
    options = ["--quick", "--parts", "c,scrape", "--encoder", str(base), "--json", str(file)]
    folder = ["--data-dir", str(tmp_path / "data")]
    done = CliRunner().invoke(loadtest, ["overhead", *options, *folder, "--", "--dtype", "float32"])
    assert done.exit_code == 0, done.output
    report = json.loads(file.read_text())
    assert len(report["rows"]) == 9
    assert all(row["figure"] > 0 for row in report["rows"])
    assert report["wrong"] == []

"""Arrival times: their rate, their burstiness, their seed; traces."""

from __future__ import annotations

import statistics
from itertools import islice, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multigraft_loadtest.arrivals import arrivals, read_trace
from multigraft_loadtest.problems import CannotStartError

SEEDS = st.integers(0, 1000)


@given(rate=st.floats(0.1, 100), cv=st.floats(0, 4), seed=SEEDS)
def test_arrivals_never_go_back_and_follow_from_the_seed(rate: float, cv: float, seed: int) -> None:
    times = list(islice(arrivals(rate, cv, seed), 50))
    assert all(earlier <= later for earlier, later in pairwise([0.0, *times]))
    assert times == list(islice(arrivals(rate, cv, seed), 50))


@given(rate=st.floats(0.5, 50), cv=st.sampled_from([0.25, 1.0, 2.0]), seed=SEEDS)
def test_gaps_have_the_rate_and_the_coefficient_of_variation_that_are_asked_for(
    rate: float, cv: float, seed: int
) -> None:
    times = list(islice(arrivals(rate, cv, seed), 20_000))
    gaps = [later - earlier for earlier, later in pairwise([0.0, *times])]
    # Six standard errors of the mean; the spread of a spread is wider.
    assert statistics.mean(gaps) * rate == pytest.approx(1, abs=6 * cv / 20_000**0.5)
    assert statistics.stdev(gaps) / statistics.mean(gaps) == pytest.approx(cv, rel=0.2)


def test_without_variation_requests_come_like_a_metronome() -> None:
    assert list(islice(arrivals(4, 0, 1), 3)) == [0.25, 0.5, 0.75]


def test_a_trace_holds_numbers_or_objects_and_is_sorted(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text('0.5\n{"offset": 0.25, "note": "x"}\n\n2\n')
    assert read_trace(file) == [0.25, 0.5, 2.0]


@pytest.mark.parametrize("line", ["", "-1", "true", "no", '{"at": 1}', "Infinity", "NaN"])
def test_a_trace_that_says_nothing_or_nonsense_is_refused(tmp_path: Path, line: str) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(CannotStartError):
        read_trace(file)

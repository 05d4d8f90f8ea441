"""Percentiles, fairness, histograms and bins of time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multigraft_loadtest.figures import (
    histogram,
    jain,
    per_bin,
    percentile,
    percentiles_per_bin,
    rounded,
    spread,
    time_edges,
)

TIMES = st.lists(st.floats(1e-4, 1e3), min_size=1, max_size=60)


@given(values=TIMES, percent=st.sampled_from([0, 50, 90, 95, 99, 100]))
def test_a_percentile_lies_between_its_neighbours_in_order(values: list[float], percent: float) -> None:
    ordered = sorted(values)
    place = percent / 100 * (len(values) - 1)
    low, high = ordered[int(place)], ordered[min(int(place) + 1, len(values) - 1)]
    assert low - 1e-9 <= percentile(values, percent) <= high + 1e-9


@given(values=TIMES)
def test_a_spread_rises_from_its_median_to_its_largest_value(values: list[float]) -> None:
    found = spread(values)
    assert found is not None
    rising = [found[name] for name in ("p50", "p90", "p95", "p99", "max")]
    assert rising == sorted(rising)
    assert found["count"] == len(values)


@given(values=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30), factor=st.floats(0.1, 10))
def test_jain_s_index_lies_between_a_share_and_one_and_knows_no_unit(values: list[float], factor: float) -> None:
    found = jain(values)
    assert found is not None
    assert 1 / len(values) - 1e-9 <= found <= 1 + 1e-9
    assert jain([value * factor for value in values]) == pytest.approx(found)


def test_jain_s_index_of_equals_is_one_and_of_one_that_has_all_a_share() -> None:
    assert jain([3.0] * 5) == pytest.approx(1)
    assert jain([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)
    assert jain([]) is None
    assert jain([0.0]) is None


@given(values=TIMES)
def test_a_histogram_counts_every_value_once(values: list[float]) -> None:
    found = histogram(values)
    assert found is not None
    assert sum(found["counts"]) == len(values)
    assert found["edges"] == sorted(found["edges"])
    assert len(found["edges"]) == len(found["counts"]) + 1


@given(elapsed=st.floats(0.01, 1e5))
def test_bins_of_time_cover_the_run_and_are_not_too_many(elapsed: float) -> None:
    edges = time_edges(elapsed)
    assert edges[0] == 0
    assert edges[-1] >= elapsed * (1 - 1e-9)
    assert 2 <= len(edges) <= 61


@given(moments=st.lists(st.floats(0, 59.9), min_size=1, max_size=50))
def test_what_is_counted_by_bin_adds_up(moments: list[float]) -> None:
    edges = time_edges(60.0)
    rates = per_bin(edges, moments, [2.0] * len(moments))
    widths = [later - earlier for earlier, later in zip(edges, edges[1:], strict=False)]
    assert sum(rate * width for rate, width in zip(rates, widths, strict=True)) == pytest.approx(2 * len(moments))
    medians = percentiles_per_bin(edges, moments, moments)["p50"]
    for median, start, end in zip(medians, edges, edges[1:], strict=False):
        assert median is None or start <= median <= end


def test_numbers_are_rounded_for_a_file_wherever_they_are() -> None:
    assert rounded({"a": [1.23456789, "x", 3], "b": float("nan")}) == {"a": [1.23457, "x", 3], "b": None}

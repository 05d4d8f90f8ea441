"""Shares of tasks: what is stated is what is asked."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multigraft_loadtest.popularity import draws, shares, turns
from multigraft_loadtest.problems import CannotStartError

COUNTS = st.integers(1, 50)


@given(count=COUNTS, exponent=st.floats(0, 3))
def test_shares_add_up_to_one_and_fall_by_the_exponent_of_the_rank(count: int, exponent: float) -> None:
    found = shares(f"zipf:{exponent}", count)
    assert sum(found) == pytest.approx(1)
    for rank, share in enumerate(found, 1):
        assert share / found[0] == pytest.approx(rank**-exponent)


@given(count=st.integers(2, 50), share=st.floats(0, 1))
def test_a_hot_task_has_its_share_and_the_others_the_rest_alike(count: int, share: float) -> None:
    found = shares(f"hot:{share}", count)
    assert found[0] == pytest.approx(share)
    assert found[1:] == pytest.approx([(1 - share) / (count - 1)] * (count - 1))


def test_uniform_and_listed_shares_are_what_they_say() -> None:
    assert shares("uniform", 4) == [0.25] * 4
    assert shares("3,1", 2) == [0.75, 0.25]


@pytest.mark.parametrize(
    "text", ["zipf", "zipf:x", "hot:1.5", "hot:-1", "1,2", "0,0,0", "-1,1,1", "even", "inf,1,1"]
)
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(CannotStartError):
        shares(text, 3)


@given(weights=st.lists(st.floats(0.01, 1), min_size=1, max_size=10), seed=st.integers(0, 100))
def test_draws_follow_from_the_seed_and_come_near_the_shares(weights: list[float], seed: int) -> None:
    names = [str(index) for index in range(len(weights))]
    drawn = list(islice(draws(names, weights, seed), 4000))
    assert drawn == list(islice(draws(names, weights, seed), 4000))
    for name, count in Counter(drawn).items():
        assert count / 4000 == pytest.approx(weights[int(name)] / sum(weights), abs=0.06)


@given(weights=st.lists(st.floats(0.01, 1), min_size=1, max_size=10), count=st.integers(1, 300))
def test_turns_never_leave_a_name_more_than_a_turn_behind_its_share(weights: list[float], count: int) -> None:
    total = [weight / sum(weights) for weight in weights]
    names = [str(index) for index in range(len(weights))]
    given_turns = Counter(islice(turns(names, total), count))
    for name, share in zip(names, total, strict=True):
        assert given_turns[name] > share * count - 1 - 1e-9

"""The merge policy as tables: who is merged when, for what was seen, what steps cost and what time it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multigraft_server.engine.merge_costs import (
    Line,
    MergeCosts,
    Observation,
    Seen,
    StepCosts,
    Tally,
    standing,
)
from multigraft_server.engine.merge_policy import PolicySettings, PolicyState, Thresholds, decide
from multigraft_server.engine.requests import BASE_DIGEST

CHEAP = StepCosts(unmerged=Line(0.010, 0.001), merged=Line(0.008, 0.0008), corrected=Line(0.001, 0.0012))
DEAR = StepCosts(unmerged=Line(0.010, 0.001), merged=Line(0.012, 0.0012), corrected=Line(0.001, 0.0012))
COSTS = MergeCosts(CHEAP, CHEAP, switch_s=0.05)
USELESS = MergeCosts(DEAR, DEAR, switch_s=0.05)


def steps(count: int, **tokens: int) -> Observation:
    """So many decode steps of these tokens by adapter."""
    seen = Seen()
    for _ in range(count):
        seen = seen.with_step(tokens, {})
    return Observation(decode=seen)


def test_a_step_counts_as_an_adapters_own_only_when_no_other_row_was_in_it() -> None:
    seen = Seen().with_step({"a": 16}, {"a": 2}).with_step({"a": 12, "b": 4}, {"b": 1})
    assert seen.adapters["a"] == Tally(1, 16, 1, 12, 4, 2)
    assert seen.adapters["b"] == Tally(0, 0, 1, 4, 12, 1)
    assert (seen.steps, seen.tokens) == (2, 32)


@pytest.mark.parametrize(
    ("hot", "cold", "seconds"),
    [
        (16, 0, 0.008 + 16 * 0.0008),  # nothing to correct
        (12, 4, 0.008 + 12 * 0.0008 + 0.001 + 4 * 0.0012),  # the correction is the cheapest
        (1, 15, 0.010 + 16 * 0.001),  # the original weights are
    ],
)
def test_a_mixed_step_is_computed_the_cheapest_way(hot: int, cold: int, seconds: float) -> None:
    told = CHEAP.mixed_s(1, hot, cold) if cold else CHEAP.alone_s(1, hot)
    assert told == pytest.approx(seconds)


def test_many_tokens_are_computed_in_two_passes_where_a_correction_costs_more() -> None:
    costs = StepCosts(Line(0.001, 0.001), Line(0.001, 0.0005), Line(0.0, 0.002))
    assert costs.mixed_s(1, 1000, 100) == pytest.approx(0.001 + 0.5 + 0.001 + 0.1)


def test_the_gain_of_a_task_alone_is_what_merged_steps_are_shorter() -> None:
    told = standing(steps(10, a=16), "a", COSTS)
    assert told.share == 1.0
    assert told.gain == pytest.approx(0.2)


def test_share_and_rate_are_told_by_service_and_by_requests() -> None:
    seen = Observation(prefill=Seen().with_step({"a": 30}, {"a": 1}).with_step({"b": 10}, {"b": 3}))
    told = standing(seen, "a", COSTS)
    assert told.share == pytest.approx(0.04 / 0.06)
    assert told.request_share == 0.25


def test_nothing_seen_is_worth_nothing() -> None:
    assert standing(Observation(), "a", COSTS).gain == 0.0


HOT, WARM, COLD = steps(20, a=16), steps(20, a=12, b=4), steps(20, a=2, b=14)


@pytest.mark.parametrize(
    ("merged", "since", "seen", "costs", "expected", "reason"),
    [
        (None, None, HOT, COSTS, "a", "worth it"),
        (None, None, WARM, COSTS, "a", "worth it"),
        (None, None, steps(20, a=3, b=3, c=3, d=3, e=3), COSTS, None, "nothing to gain"),
        (None, None, HOT, USELESS, None, "nothing to gain"),
        (None, None, steps(3, a=16), COSTS, None, "too little seen"),
        (None, None, Observation(), COSTS, None, "idle"),
        (None, None, steps(20, **{BASE_DIGEST: 16}), COSTS, None, "nothing to gain"),
        ("a", 90.0, Observation(), COSTS, "a", "idle"),
        ("a", 90.0, HOT, COSTS, "a", "still worth it"),
        ("a", 90.0, steps(20, a=4, b=4, c=4, d=4), COSTS, None, "faded"),
        ("a", 90.0, steps(20, b=16), COSTS, "b", "worth it"),
        ("a", 99.0, steps(20, b=16), COSTS, "a", "too early"),
        ("a", 90.0, HOT, USELESS, None, "faded"),
    ],
)
def test_what_is_merged(
    merged: str | None, since: float | None, seen: Observation, costs: MergeCosts, expected: str, reason: str
) -> None:
    decision, state = decide(PolicyState((), merged, since), seen, costs, 100.0)
    assert (decision.merged, decision.reason) == (expected, reason)
    assert (state.merged, state.switched_at) == (expected, since if expected == merged else 100.0)


def test_a_gain_between_the_thresholds_begins_no_merge_and_ends_none() -> None:
    seen, settings = steps(20, a=9, b=7), PolicySettings(least_enter=0.2)
    gain = standing(seen, "a", COSTS).gain
    thresholds = Thresholds.of(COSTS, settings)
    assert thresholds.stay < gain < thresholds.enter
    assert decide(PolicyState(), seen, COSTS, 1.0, settings=settings)[0].merged is None
    assert decide(PolicyState((), "a", 0.0), seen, COSTS, 9.0, settings=settings)[0].merged == "a"


def test_the_thresholds_grow_with_what_a_switch_costs() -> None:
    settings = PolicySettings()
    cheap, dear = (Thresholds.of(MergeCosts(CHEAP, CHEAP, cost), settings) for cost in (0.001, 1.0))
    assert (cheap.enter, cheap.between_s) == (settings.least_enter, settings.least_between_s)
    assert dear.enter == pytest.approx(2 * 1.0 / settings.window_s)
    assert dear.between_s == pytest.approx(10.0)
    assert dear.stay < dear.enter


def test_a_merge_that_did_not_pay_makes_the_next_one_harder_and_one_that_did_easier() -> None:
    merged = PolicyState((), "a", 0.0, saved_s=0.0)
    spread = steps(20, a=4, b=4, c=4, d=4)
    _, state = decide(merged, spread, COSTS, 9.0)
    assert (state.merged, state.caution) == (None, 2.0)
    decision, state = decide(state, HOT, COSTS, 18.0)
    assert decision.thresholds.enter == 2 * Thresholds.of(COSTS, PolicySettings()).enter
    assert state.merged == "a"
    for second in range(19, 40):
        _, state = decide(state, HOT, COSTS, float(second))
    assert state.saved_s > 2 * COSTS.switch_s
    _, state = decide(state, spread, COSTS, 60.0)
    assert (state.merged, state.caution) == (None, 1.0)


def test_an_adapter_that_cannot_be_merged_is_left_for_the_next_best() -> None:
    seen = steps(20, a=16) + steps(15, b=16)
    assert decide(PolicyState(), seen, COSTS, 1.0)[0].merged == "a"
    assert decide(PolicyState(), seen, COSTS, 1.0, refused={"a"})[0].merged == "b"


def test_what_was_seen_longer_ago_than_the_window_counts_no_more() -> None:
    _, state = decide(PolicyState(), HOT, COSTS, 0.0)
    decision, state = decide(state, COLD, COSTS, 4.0)
    assert decision.merged == "a"
    decision, state = decide(state, COLD, COSTS, 6.0)
    assert decision.merged == "b"
    assert len(state.window) == 2


seen_steps = st.dictionaries(st.sampled_from("abc"), st.integers(1, 40), min_size=1).map(
    lambda tokens: steps(10, **tokens)
)
histories = st.lists(st.tuples(st.floats(0.01, 3.0), st.one_of(seen_steps, st.just(Observation()))), max_size=40)


@given(histories, st.floats(0.0, 0.5))
def test_no_two_switches_are_closer_than_the_shortest_time_between_them(
    history: list[tuple[float, Observation]], switch_s: float
) -> None:
    costs, state, now, switched = MergeCosts(CHEAP, CHEAP, switch_s), PolicyState(), 0.0, list[float]()
    for pause, seen in history:
        now += pause
        before = state.merged
        decision, state = decide(state, seen, costs, now)
        assert decision.merged == state.merged
        if state.merged != before:
            switched.append(now)
    between = Thresholds.of(costs, PolicySettings()).between_s
    assert all(later - earlier >= between for earlier, later in zip(switched, switched[1:], strict=False))


@given(histories)
def test_the_same_question_again_has_the_same_answer(history: list[tuple[float, Observation]]) -> None:
    state, now = PolicyState(), 0.0
    for pause, seen in history:
        now += pause
        decision, state = decide(state, seen, COSTS, now)
        again, same = decide(state, Observation(), COSTS, now)
        assert (again.merged, same) == (decision.merged, state)


@given(histories)
def test_only_an_adapter_that_had_rows_is_ever_merged(history: list[tuple[float, Observation]]) -> None:
    state, now, met = PolicyState(), 0.0, set[str]()
    for pause, seen in history:
        now += pause
        met |= seen.digests()
        decision, state = decide(state, seen, COSTS, now, refused={"c"})
        assert decision.merged is None or decision.merged in met - {"c"}


@given(st.integers(0, 64), st.integers(1, 64))
def test_no_way_of_computing_a_step_is_predicted_to_cost_more_than_never_merging(hot: int, cold: int) -> None:
    for costs in (CHEAP, DEAR):
        assert costs.mixed_s(1, hot, cold) <= costs.unmerged.seconds(1, hot + cold)
        assert costs.alone_s(1, cold) <= costs.unmerged.seconds(1, cold)

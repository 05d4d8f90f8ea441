"""The merge policy as tables: who is merged when, for what was seen, what steps cost and what time it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multigraft_server.engine.merge_costs import MergeCosts, PassSeconds, Standing, StepSeen, Weighing
from multigraft_server.engine.merge_policy import PolicySettings, PolicyState, Thresholds, decide
from multigraft_server.engine.requests import BASE_DIGEST

ORIGINAL = PassSeconds.of({1: 0.011, 41: 0.051})
FASTER = PassSeconds.of({1: 0.0052, 41: 0.0372})
COSTS = MergeCosts(ORIGINAL, FASTER, switch_s=0.05)
USELESS = MergeCosts(ORIGINAL, PassSeconds.of({1: 0.02, 41: 0.06}), switch_s=0.05)
UNKNOWN = MergeCosts(ORIGINAL, PassSeconds(()), switch_s=0.05)


def steps(count: int, **tokens: int) -> list[StepSeen]:
    """So many steps of these tokens by adapter."""
    return [StepSeen(tokens)] * count


def gain_of(digest: str, seen: list[StepSeen]) -> float:
    return Weighing.of(seen, COSTS).standing(digest).gain


@pytest.mark.parametrize(("tokens", "seconds"), [(1, 0.011), (21, 0.031), (41, 0.051), (81, 0.091), (0, 0.011)])
def test_a_pass_takes_as_long_as_the_measured_ones_beside_it_say(tokens: int, seconds: float) -> None:
    assert ORIGINAL.at(tokens) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("costs", "hot", "cold", "seconds"),
    [
        (COSTS, 16, 0, 0.0172),  # on the merged weights alone
        (COSTS, 21, 20, 0.051),  # together on the originals, since a second pass costs more
        (USELESS, 16, 0, 0.026),
        (UNKNOWN, 16, 0, 0.026),
        (COSTS, 0, 16, 0.026),
    ],
)
def test_a_step_is_computed_the_cheaper_way(costs: MergeCosts, hot: int, cold: int, seconds: float) -> None:
    assert costs.step_s(hot, cold) == pytest.approx(seconds)


def test_a_step_is_split_where_the_merged_pass_saves_more_than_a_second_one_costs() -> None:
    costs = MergeCosts(PassSeconds.of({10: 0.01, 1000: 1.0}), PassSeconds.of({10: 0.005, 1000: 0.5}), 0.1)
    assert costs.step_s(1000, 100) == pytest.approx(0.5 + 0.1)


def test_the_gain_of_a_task_alone_is_what_merged_steps_are_shorter() -> None:
    assert gain_of("a", steps(10, a=16)) == pytest.approx(1 - 0.0172 / 0.026)


def test_share_and_rate_are_told_by_service_and_by_requests() -> None:
    seen = [StepSeen({"a": 31}, {"a": 1}), StepSeen({"b": 1}, {"b": 3})]
    told = Weighing.of(seen, COSTS).standing("a")
    assert told.share == pytest.approx(0.041 / 0.052)
    assert told.request_share == 0.25


def test_nothing_seen_is_worth_nothing() -> None:
    assert Weighing.of([], COSTS).standing("a") == Standing()


HOT, WARM = steps(20, a=16), steps(12, a=16) + steps(8, b=8)
OTHER, SPREAD = steps(20, b=16), steps(20, a=4, b=4, c=4, d=4)


@pytest.mark.parametrize(
    ("merged", "since", "seen", "costs", "expected", "reason"),
    [
        (None, None, HOT, COSTS, "a", "worth it"),
        (None, None, WARM, COSTS, "a", "worth it"),
        (None, None, SPREAD, COSTS, None, "nothing to gain"),
        (None, None, HOT, USELESS, None, "nothing to gain"),
        (None, None, HOT, UNKNOWN, None, "nothing to gain"),
        (None, None, steps(3, a=16), COSTS, None, "too little seen"),
        (None, None, [], COSTS, None, "idle"),
        (None, None, steps(20, **{BASE_DIGEST: 16}), COSTS, None, "nothing to gain"),
        ("a", 90.0, [], COSTS, "a", "idle"),
        ("a", 90.0, HOT, COSTS, "a", "still worth it"),
        ("a", 90.0, SPREAD, COSTS, None, "faded"),
        ("a", 90.0, OTHER, COSTS, "b", "worth it"),
        ("a", 99.0, OTHER, COSTS, "a", "too early"),
        ("a", 90.0, HOT, USELESS, None, "faded"),
    ],
)
def test_what_is_merged(
    merged: str | None, since: float | None, seen: list[StepSeen], costs: MergeCosts, expected: str, reason: str
) -> None:
    decision, state = decide(PolicyState((), merged, since), seen, costs, 100.0)
    assert (decision.merged, decision.reason) == (expected, reason)
    assert (state.merged, state.switched_at) == (expected, since if expected == merged else 100.0)


def test_a_gain_between_the_thresholds_begins_no_merge_and_ends_none() -> None:
    seen, settings = WARM, PolicySettings(least_enter=0.3)
    gain = gain_of("a", seen)
    thresholds = Thresholds.of(COSTS, settings)
    assert thresholds.stay < gain < thresholds.enter
    assert decide(PolicyState(), seen, COSTS, 1.0, settings=settings)[0].merged is None
    assert decide(PolicyState((), "a", 0.0), seen, COSTS, 9.0, settings=settings)[0].merged == "a"


def test_the_thresholds_grow_with_what_a_switch_costs() -> None:
    settings = PolicySettings()
    cheap, dear = (Thresholds.of(MergeCosts(ORIGINAL, FASTER, cost), settings) for cost in (0.001, 1.0))
    assert (cheap.enter, cheap.between_s) == (settings.least_enter, settings.least_between_s)
    assert dear.enter == pytest.approx(2 * 1.0 / settings.window_s)
    assert dear.between_s == pytest.approx(10.0)
    assert dear.stay < dear.enter


def test_a_merge_that_did_not_pay_makes_the_next_one_harder_and_one_that_did_easier() -> None:
    merged = PolicyState((), "a", 0.0, saved_s=0.0)
    _, state = decide(merged, SPREAD, COSTS, 9.0)
    assert (state.merged, state.caution) == (None, 2.0)
    decision, state = decide(state, HOT, COSTS, 18.0)
    assert decision.thresholds.enter == 2 * Thresholds.of(COSTS, PolicySettings()).enter
    assert state.merged == "a"
    for second in range(19, 40):
        _, state = decide(state, HOT, COSTS, float(second))
    assert state.saved_s > 2 * COSTS.switch_s
    _, state = decide(state, SPREAD, COSTS, 60.0)
    assert (state.merged, state.caution) == (None, 1.0)


def test_an_adapter_that_cannot_be_merged_is_left_for_the_next_best() -> None:
    seen = steps(20, a=16) + steps(15, b=16)
    assert decide(PolicyState(), seen, COSTS, 1.0)[0].merged == "a"
    assert decide(PolicyState(), seen, COSTS, 1.0, refused={"a"})[0].merged == "b"


def test_what_was_seen_longer_ago_than_the_window_counts_no_more() -> None:
    _, state = decide(PolicyState(), HOT, COSTS, 0.0)
    decision, state = decide(state, OTHER, COSTS, 4.0)
    assert decision.merged == "a"
    decision, state = decide(state, OTHER, COSTS, 6.0)
    assert decision.merged == "b"
    assert len(state.window) == 2


seen_steps = st.dictionaries(st.sampled_from("abc"), st.integers(1, 40), min_size=1).map(
    lambda tokens: steps(10, **tokens)
)
histories = st.lists(st.tuples(st.floats(0.01, 3.0), st.one_of(seen_steps, st.just([]))), max_size=40)


@given(histories, st.floats(0.0, 0.5))
def test_no_two_switches_are_closer_than_the_shortest_time_between_them(
    history: list[tuple[float, list[StepSeen]]], switch_s: float
) -> None:
    costs, state, now, switched = MergeCosts(ORIGINAL, FASTER, switch_s), PolicyState(), 0.0, list[float]()
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
def test_the_same_question_again_has_the_same_answer(history: list[tuple[float, list[StepSeen]]]) -> None:
    state, now = PolicyState(), 0.0
    for pause, seen in history:
        now += pause
        decision, state = decide(state, seen, COSTS, now)
        again, same = decide(state, [], COSTS, now)
        assert (again.merged, same) == (decision.merged, state)


@given(histories)
def test_only_an_adapter_that_had_rows_is_ever_merged(history: list[tuple[float, list[StepSeen]]]) -> None:
    state, now, met = PolicyState(), 0.0, set[str]()
    for pause, seen in history:
        now += pause
        met |= {digest for step in seen for digest in step.tokens}
        decision, state = decide(state, seen, COSTS, now, refused={"c"})
        assert decision.merged is None or decision.merged in met - {"c"}


@given(st.integers(0, 64), st.integers(1, 64))
def test_no_step_is_predicted_to_cost_more_than_without_a_merge(hot: int, cold: int) -> None:
    for costs in (COSTS, USELESS, UNKNOWN):
        assert costs.step_s(hot, cold) <= costs.original_s(hot + cold)
        assert costs.step_s(cold, 0) <= costs.original_s(cold)

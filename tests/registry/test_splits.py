"""Splits by weight: which are allowed, how they move and roll back, and whom a key gets."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multigraft_adapters.errors import ConflictError, InvalidRequestError, VersionNotFoundError
from multigraft_adapters.registry import Alias, Registry, point_of
from multigraft_adapters.registry.splits import chosen, restored, stored, weights_of
from tests.registry.parts import make_adapter

SHARES = st.lists(st.integers(1, 1000), min_size=1, max_size=16)


def as_split(shares: list[int]) -> dict[int, float]:
    return {number: share / sum(shares) for number, share in enumerate(shares, 1)}


@pytest.fixture
def filled(registry: Registry) -> Registry:
    """Three versions of `topic`, the first in production."""
    for number in (1, 2, 3):
        registry.add_version("topic", make_adapter(str(number)))
    registry.set_alias("topic", "production", 1)
    return registry


@pytest.mark.parametrize(
    "split",
    [
        {},
        {1: 0.9},
        {1: 0.9, 2: 0.2},
        {1: 1.0, 2: 0.0},
        {1: 1.5, 2: -0.5},
        {1: math.nan, 2: 0.5},
        {1: math.inf},
        dict.fromkeys(range(1, 18), 1 / 17),
    ],
)
def test_weights_that_are_no_split_are_refused(filled: Registry, split: dict[int, float]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        filled.set_alias("topic", "production", split)
    assert caught.value.param == "weights"
    assert filled.resolve("topic").number == 1


@given(SHARES)
def test_any_shares_make_a_split_that_is_stored_whole(shares: list[int]) -> None:
    weights = weights_of(as_split(shares))
    assert restored(1, stored(weights)) == weights


@given(SHARES, st.floats(0, 1, exclude_max=True))
def test_a_point_falls_into_the_share_that_reaches_over_it(shares: list[int], point: float) -> None:
    weights = list(as_split(shares).values())
    index = chosen(weights, point)
    assert math.fsum(weights[:index]) <= point + 1e-9
    assert point < math.fsum(weights[: index + 1]) + 1e-9


def test_keys_fall_evenly_and_stay_where_they_are() -> None:
    points = [point_of("topic", f"user {number}") for number in range(4000)]
    counts = Counter(chosen((0.9, 0.1), point) for point in points)
    assert 0.08 < counts[1] / len(points) < 0.12
    assert point_of("topic", "user 1") == 0.004321147949481574  # in every process, of every release
    assert point_of("style", "user 1") != points[1]


@given(st.text(st.characters()), st.floats(0.01, 0.98), st.floats(0.001, 0.01))
def test_who_got_the_newer_version_keeps_it_while_its_share_grows(key: str, share: float, more: float) -> None:
    point = point_of("topic", key)
    before, after = (chosen((1 - part, part), point) for part in (share, share + more))
    assert after >= before


def test_a_split_moves_and_rolls_back_with_its_weights(filled: Registry) -> None:
    canary = {1: 0.9, 2: 0.1}
    moved = filled.set_alias("topic", "production", canary)
    assert moved == Alias("topic", "production", 1, 2, ((1, 0.9), (2, 0.1)))
    assert filled.set_alias("topic", "production", dict(reversed(canary.items()))) == moved
    filled.set_alias("topic", "production", {1: 0.5, 2: 0.5})
    filled.set_alias("topic", "production", 2)
    assert [filled.rollback("topic").weights for _ in range(3)] == [
        ((1, 0.5), (2, 0.5)),
        ((1, 0.9), (2, 0.1)),
        None,
    ]
    assert filled.resolve("topic").number == 1
    _, history = filled.alias("topic", "production")
    assert [(state.version, state.weights) for state in history] == [(1, None)]
    newest = filled.events("topic", limit=1)[0]
    assert newest.detail["previous_weights"] == {"1": 0.9, "2": 0.1}


def test_a_look_up_of_a_split_has_every_version_with_its_weight(filled: Registry) -> None:
    filled.set_alias("topic", "production", {1: 0.25, 3: 0.75})
    routed = filled.look_up("topic", "production")
    assert [(version.number, weight) for version, weight in routed.shares] == [(1, 0.25), (3, 0.75)]
    assert [routed.pick(point).number for point in (0.0, 0.2499, 0.25, 0.9999)] == [1, 1, 3, 3]
    assert routed.heaviest == filled.resolve("topic") == filled.version("topic", 3)
    assert filled.kept("topic", "production") is routed


def test_a_split_over_a_version_that_is_not_there_is_refused(filled: Registry) -> None:
    with pytest.raises(VersionNotFoundError, match="no version 4"):
        filled.set_alias("topic", "production", {1: 0.5, 4: 0.5})


def test_a_stale_if_match_tells_the_split_that_is_there(filled: Registry) -> None:
    filled.set_alias("topic", "production", {1: 0.9, 2: 0.1})
    with pytest.raises(ConflictError, match=r"the split 1 \(0.9\) and 2 \(0.1\), revision 2") as caught:
        filled.set_alias("topic", "production", 3, if_match=1)
    assert caught.value.data["weights"] == {1: 0.9, 2: 0.1}


def test_a_version_in_any_alias_cannot_be_retired(filled: Registry) -> None:
    filled.set_alias("topic", "canary", {2: 0.5, 3: 0.5})
    with pytest.raises(ConflictError, match="in use by alias 'canary'") as caught:
        filled.retire("topic", 3)
    assert caught.value.data["aliases"] == ["canary"]
    assert filled.version("topic", 3).retired_at is None


def test_a_retired_version_is_not_served_nor_promoted_nor_rolled_back_to(filled: Registry) -> None:
    filled.set_alias("topic", "production", {1: 0.5, 2: 0.5})
    filled.set_alias("topic", "production", 3)
    filled.look_up("topic", 2)
    retired = filled.retire("topic", 2, actor="ann")
    assert retired.retired_at is not None
    assert filled.retire("topic", 2) == retired
    for look in (filled.look_up, lambda *_: filled.resolve("topic@2")):
        with pytest.raises(VersionNotFoundError, match="version 2 of task 'topic' was retired"):
            look("topic", 2)
    with pytest.raises(ConflictError, match="cannot point at version 2: version 2 is retired"):
        filled.set_alias("topic", "production", 2)
    with pytest.raises(ConflictError, match="cannot go back to the split .*: version 2 is retired"):
        filled.rollback("topic")
    assert filled.resolve("topic").number == 3
    assert filled.retired() == [("topic", 2)]
    assert [event.action for event in filled.events("topic", limit=1)] == ["retire"]


def test_the_same_content_again_serves_a_retired_version_again(filled: Registry) -> None:
    filled.retire("topic", 2)
    again, created = filled.add_version("topic", make_adapter("2"), alias="canary")
    assert (again.number, again.retired_at, created) == (2, None, False)
    assert filled.look_up("topic", "canary").heaviest.number == 2


def test_a_digest_is_retired_when_no_version_of_it_is_served(filled: Registry) -> None:
    filled.add_version("style", make_adapter("2"))
    digest = make_adapter("2").digest
    filled.retire("topic", 2)
    assert filled.digests()[digest] is None
    at = filled.retire("style", 1).retired_at
    assert filled.digests()[digest] == at
    assert len(filled.digests()) == 3


def test_a_removed_alias_is_gone_and_its_revisions_go_on(filled: Registry) -> None:
    filled.set_alias("topic", "canary", 2)
    filled.remove_alias("topic", "canary", if_match=1)
    assert [alias.name for alias in filled.task("topic").aliases] == ["production"]
    for call in (filled.rollback, filled.remove_alias, filled.look_up, filled.alias):
        with pytest.raises(VersionNotFoundError, match="no alias 'canary'"):
            call("topic", "canary")
    with pytest.raises(ConflictError, match="does not exist"):
        filled.set_alias("topic", "canary", 3, if_match=1)
    assert filled.set_alias("topic", "canary", 3, if_match=0).revision == 3
    assert filled.rollback("topic", "canary").version == 2


def test_tags_are_set_changed_and_removed(filled: Registry) -> None:
    assert filled.set_tag("topic", 1, "dataset", "reviews").tags == {"dataset": "reviews"}
    filled.set_tag("topic", 1, "owner", "ann")
    counter = filled.change_counter()
    assert filled.set_tag("topic", 1, "owner", "ann").tags == {"dataset": "reviews", "owner": "ann"}
    assert filled.change_counter() == counter
    filled.set_tag("topic", 1, "owner", "bob")
    filled.set_tag("topic", 1, "dataset", None)
    assert filled.version("topic", 1).tags == {"owner": "bob"}
    assert [version.tags for version in filled.task("topic").versions] == [{"owner": "bob"}, {}, {}]
    for name, value in (("Owner", "x"), ("owner", "x" * 257), ("", "x")):
        with pytest.raises(InvalidRequestError):
            filled.set_tag("topic", 1, name, value)

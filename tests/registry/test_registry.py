"""Versions, aliases, events and the change counter of one registry."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, event

from multigraft_adapters.errors import (
    ConflictError,
    InvalidRequestError,
    TaskNotFoundError,
    VersionNotFoundError,
)
from multigraft_adapters.registry import Alias, Registry
from tests.registry.conftest import Place
from tests.registry.parts import make_adapter


def fill(registry: Registry, task: str, count: int) -> None:
    for number in range(1, count + 1):
        registry.add_version(task, make_adapter(f"{task} {number}"))


def test_a_version_keeps_what_it_was_given(registry: Registry) -> None:
    adapter = make_adapter("one")
    version, created = registry.add_version("topic", adapter, actor="ann")
    assert created
    assert (version.task, version.number, version.digest) == ("topic", 1, adapter.digest)
    assert version.manifest == adapter.manifest
    assert version.task_type == "feature-extraction"
    assert timedelta(0) <= datetime.now(UTC) - version.created_at < timedelta(minutes=1)
    assert registry.version("topic", 1) == version


def test_a_version_that_nobody_holds_any_longer_is_gone(registry: Registry) -> None:
    """A server learns of thousands of versions in its life, and uses a few of them."""
    fill(registry, "topic", 3)
    held = [weakref.ref(version.manifest) for version in registry.task("topic").versions]
    held += [weakref.ref(registry.version("topic", number).manifest) for number in (1, 2, 3)]
    gc.collect()
    assert len(held) == 6
    assert [ref() for ref in held] == [None] * 6


def test_versions_count_up_by_task(registry: Registry) -> None:
    fill(registry, "topic", 3)
    fill(registry, "style", 2)
    assert [v.number for v in registry.task("topic").versions] == [1, 2, 3]
    assert [v.number for v in registry.task("style").versions] == [1, 2]
    assert [task.name for task in registry.tasks()] == ["style", "topic"]
    assert registry.tasks() == [registry.task("style"), registry.task("topic")]


def test_the_same_digest_of_a_task_is_the_same_version(registry: Registry) -> None:
    first, _ = registry.add_version("topic", make_adapter("one"))
    registry.add_version("topic", make_adapter("two"))
    again, created = registry.add_version("topic", make_adapter("one"))
    assert (again, created) == (first, False)
    other, created = registry.add_version("style", make_adapter("one"))
    assert (other.task, other.number, created) == ("style", 1, True)


def test_the_alias_is_pointed_at_an_old_and_at_a_new_version(registry: Registry) -> None:
    registry.add_version("topic", make_adapter("one"), alias="production")
    registry.add_version("topic", make_adapter("two"), alias="production")
    assert registry.resolve("topic").number == 2
    registry.add_version("topic", make_adapter("one"), alias="production")
    assert registry.resolve("topic").number == 1


@pytest.mark.parametrize(("task", "alias"), [("Topic", None), ("smollm2", None), ("topic", "7"), ("topic", "")])
def test_a_name_that_is_not_allowed_leaves_nothing(registry: Registry, task: str, alias: str | None) -> None:
    with pytest.raises(InvalidRequestError):
        registry.add_version(task, make_adapter("one"), alias=alias)
    assert registry.tasks() == []
    assert registry.events() == []


def test_references_resolve_to_versions(registry: Registry) -> None:
    fill(registry, "topic", 3)
    registry.set_alias("topic", "production", 2)
    registry.set_alias("topic", "canary", 3)
    found = {ref: registry.resolve(ref).number for ref in ("topic", "topic@canary", "topic@1", "base:topic@3")}
    assert found == {"topic": 2, "topic@canary": 3, "topic@1": 1, "base:topic@3": 3}


def test_an_unknown_task_is_answered_with_close_names(registry: Registry) -> None:
    with pytest.raises(TaskNotFoundError, match="there are no tasks yet"):
        registry.resolve("topic")
    for name in ("sentiment", "sentiments", "topic"):
        fill(registry, name, 1)
    with pytest.raises(TaskNotFoundError, match="did you mean 'sentiment' or 'sentiments'"):
        registry.resolve("Sentimen")
    with pytest.raises(TaskNotFoundError, match="the tasks are 'sentiment', 'sentiments', 'topic'"):
        registry.task("xyz")


def test_at_most_five_names_are_listed(registry: Registry) -> None:
    for letter in "abcdefgh":
        fill(registry, letter * 8, 1)
    with pytest.raises(TaskNotFoundError, match="and 3 more") as caught:
        registry.task("0")
    assert len(caught.value.data["near"]) == 5


def test_an_unknown_version_or_alias_is_answered_with_what_exists(registry: Registry) -> None:
    fill(registry, "topic", 7)
    registry.set_alias("topic", "canary", 7)
    message = "no version 9; it has the versions 7, 6, 5, 4, 3 and 2 more and the aliases 'canary'"
    with pytest.raises(VersionNotFoundError, match=message):
        registry.version("topic", 9)
    for ref in ("topic", "topic@blue", "topic@8"):
        with pytest.raises(VersionNotFoundError, match="'canary'"):
            registry.resolve(ref)


@pytest.mark.parametrize("number", [0, -1, 2**63, 10**40])
def test_a_number_that_no_version_has_is_not_found(registry: Registry, number: int) -> None:
    fill(registry, "topic", 1)
    with pytest.raises(VersionNotFoundError):
        registry.version("topic", number)
    with pytest.raises(VersionNotFoundError):
        registry.set_alias("topic", "production", number)


@pytest.mark.parametrize("odd", ["a\0b", "\ud800", "", "A", "x" * 5000])
def test_a_text_that_is_no_name_is_not_found(registry: Registry, odd: str) -> None:
    fill(registry, "topic", 1)
    for name, alias in ((odd, "production"), ("topic", odd)):
        for call in (registry.look_up, registry.rollback, registry.alias, registry.remove_alias):
            with pytest.raises((TaskNotFoundError, VersionNotFoundError)):
                call(name, alias)
    for change in (registry.retire, registry.version):
        with pytest.raises(TaskNotFoundError):
            change(odd, 1)
    assert registry.events(odd) == []


def test_the_base_is_not_a_task(registry: Registry) -> None:
    with pytest.raises(TaskNotFoundError, match="is the base"):
        registry.resolve("smollm2")


def test_each_move_of_an_alias_grows_its_revision(registry: Registry) -> None:
    fill(registry, "topic", 2)
    moves = [registry.set_alias("topic", "production", number) for number in (1, 2, 2, 1)]
    assert [(alias.version, alias.revision) for alias in moves] == [(1, 1), (2, 2), (2, 2), (1, 3)]
    assert registry.rollback("topic") == Alias("topic", "production", 2, 4)
    assert registry.task("topic").aliases == (Alias("topic", "production", 2, 4),)


@pytest.mark.parametrize(("if_match", "allowed"), [(None, True), (2, True), (1, False), (3, False), (0, False)])
def test_a_stale_if_match_is_refused_with_the_present_state(
    registry: Registry, if_match: int | None, allowed: bool
) -> None:
    fill(registry, "topic", 3)
    registry.set_alias("topic", "production", 1)
    registry.set_alias("topic", "production", 2)
    if allowed:
        assert registry.set_alias("topic", "production", 3, if_match=if_match).revision == 3
        return
    with pytest.raises(ConflictError) as caught:
        registry.set_alias("topic", "production", 3, if_match=if_match)
    assert caught.value.data == {"task": "topic", "alias": "production", "version": 2, "revision": 2}
    assert registry.resolve("topic").number == 2


def test_if_match_zero_means_that_the_alias_is_new(registry: Registry) -> None:
    fill(registry, "topic", 1)
    with pytest.raises(ConflictError, match="does not exist") as caught:
        registry.set_alias("topic", "canary", 1, if_match=4)
    assert caught.value.data["revision"] == 0
    assert registry.set_alias("topic", "canary", 1, if_match=0).revision == 1


@pytest.mark.parametrize(
    ("steps", "versions"),
    [
        ("1 2 3 < <", [1, 2, 3, 2, 1]),  # again goes further back, it does not toggle
        ("1 2 3 < 4 < <", [1, 2, 3, 2, 4, 2, 1]),  # a change after a rollback starts a new line
        ("1 2 2 2 <", [1, 2, 2, 2, 1]),  # setting what is set is no change
        ("1 2 1 < <", [1, 2, 1, 2, 1]),  # the same version may stand in the line twice
        ("1 2 < 2 <", [1, 2, 1, 2, 1]),
    ],
)
def test_rollback_walks_the_alias_history(registry: Registry, steps: str, versions: list[int]) -> None:
    fill(registry, "topic", 4)
    seen = []
    for step in steps.split():
        if step == "<":
            seen.append(registry.rollback("topic").version)
        else:
            seen.append(registry.set_alias("topic", "production", int(step)).version)
    assert seen == versions
    with pytest.raises(ConflictError, match="no state before version 1"):
        registry.rollback("topic")
    assert registry.resolve("topic").number == 1


def test_rollback_moves_one_alias_only(registry: Registry) -> None:
    fill(registry, "topic", 2)
    for alias in ("production", "canary"):
        registry.set_alias("topic", alias, 1)
        registry.set_alias("topic", alias, 2)
    registry.rollback("topic", "canary")
    assert registry.resolve("topic").number == 2
    assert registry.resolve("topic@canary").number == 1


def test_rollback_of_what_does_not_exist_says_what_does(registry: Registry) -> None:
    with pytest.raises(TaskNotFoundError):
        registry.rollback("topic")
    fill(registry, "topic", 1)
    with pytest.raises(VersionNotFoundError, match="no alias 'production'; it has the versions 1 and no aliases"):
        registry.rollback("topic")


def test_every_write_is_an_event(registry: Registry) -> None:
    fill(registry, "style", 1)
    adapter = make_adapter("one")
    registry.add_version("topic", adapter, alias="production", actor="ann")
    registry.add_version("topic", make_adapter("two"), actor="bob")
    registry.set_alias("topic", "production", 2, actor="bob")
    registry.rollback("topic", actor="eve")
    events = registry.events("topic")
    assert [(event.action, event.actor) for event in events] == [
        ("rollback", "eve"),
        ("set_alias", "bob"),
        ("add_version", "bob"),
        ("set_alias", "ann"),
        ("add_version", "ann"),
    ]
    assert events[0].detail == {"alias": "production", "version": 1, "previous": 2, "revision": 3}
    assert events[-1].detail == {"version": 1, "digest": adapter.digest}
    assert [event.id for event in registry.events(limit=2)] == [event.id for event in events[:2]]
    assert len(registry.events()) == 6


def test_the_change_counter_grows_with_writes_only(registry: Registry) -> None:
    seen = [registry.change_counter()]

    def grew() -> bool:
        seen.append(registry.change_counter())
        return seen[-1] > seen[-2]

    fill(registry, "topic", 2)
    assert grew()
    registry.set_alias("topic", "production", 1)
    assert grew()
    registry.set_alias("topic", "production", 1)
    registry.add_version("topic", make_adapter("topic 1"), alias="production")
    registry.resolve("topic")
    assert not grew()
    with pytest.raises(ConflictError):
        registry.rollback("topic")
    assert not grew()


def test_a_listing_asks_as_often_for_many_tasks_as_for_few(place: Place) -> None:
    asked: list[str] = []
    here = threading.current_thread()  # other tests' servers look at their registries

    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if threading.current_thread() is here:
            asked.append(statement)

    def statements(listed: Registry) -> int:
        asked.clear()
        tasks = listed.tasks()
        num = len([one for one in asked if one.startswith("SELECT")])
        assert tasks == [listed.task(task.name) for task in tasks]
        return num

    writer, reader, fresh = (Registry.open(place, "smollm2") for _ in range(3))
    event.listen(Engine, "before_cursor_execute", count)
    try:
        fill(writer, "topic", 1)
        few = statements(reader)
        for number in range(20):
            writer.add_version(f"task{number}", make_adapter("one"), alias="production")
        assert statements(fresh) == few > 1
        assert statements(reader) <= few + 1  # of what has changed alone
        assert statements(reader) == 1  # nothing has
    finally:
        event.remove(Engine, "before_cursor_execute", count)
        for registry in (writer, reader, fresh):
            registry.close()


def test_a_listing_that_is_kept_is_the_same_as_one_that_is_read(registry: Registry, place: Place) -> None:
    other = Registry.open(place, "smollm2")
    fill(registry, "topic", 2)
    changes: list[Callable[[], object]] = [
        lambda: other.add_version("style", make_adapter("one")),
        lambda: other.set_alias("topic", "production", {1: 0.5, 2: 0.5}),
        lambda: registry.rollback("topic"),
        lambda: other.set_tag("topic", 1, "owner", "ann"),
        lambda: other.remove_alias("topic", "production"),
        lambda: registry.retire("topic", 2),
    ]
    other.set_alias("topic", "production", 1)
    for change in changes:
        registry.tasks()
        change()
        fresh = Registry.open(place, "smollm2")
        assert registry.tasks() == other.tasks() == fresh.tasks()
        fresh.close()
    other.close()


def test_a_refresh_forgets_the_tasks_that_changed_alone(registry: Registry, place: Place) -> None:
    other = Registry.open(place, "smollm2")
    for task in ("topic", "style"):
        registry.add_version(task, make_adapter("one"), alias="production")
        registry.add_version(task, make_adapter("two"))
    assert registry.refresh()
    kept = {task: registry.look_up(task, "production") for task in ("topic", "style")}
    other.set_alias("topic", "production", 2)
    assert registry.look_up("topic", "production") is kept["topic"]
    assert registry.refresh()
    assert registry.kept("style", "production") is kept["style"]
    assert registry.kept("topic", "production") is None
    assert registry.look_up("topic", "production").heaviest.number == 2
    assert not registry.refresh()
    other.close()

"""What registry and store hold, and what was acknowledged of it, compared after a crash."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from multigraft_adapters.registry import Registry
from multigraft_adapters.store import Store, check

State = dict[str, Any]
"""By `alias TASK NAME`, `version TASK NUMBER` and `stored DIGEST`: plain values that JSON keeps."""


def state_of(registry: Registry, store: Store) -> State:
    """All that is there now."""
    state: State = {f"stored {digest}": True for digest in store.digests()}
    for task in registry.tasks():
        for version in task.versions:
            key = f"version {task.name} {version.number}"
            state[key] = [version.digest, version.retired_at is not None]
        for alias in task.aliases:
            weights = [list(weight) for weight in alias.weights or ((alias.version, 1.0),)]
            state[f"alias {task.name} {alias.name}"] = [alias.revision, weights]
    return state


def check_sound(registry: Registry, store: Store) -> int:
    """Every alias points to versions that are served and whose digests check; returns how many aliases."""
    problems = list(check(store, registry))
    assert not problems, problems
    count = 0
    for task in registry.tasks():
        served = {version.number: version.digest for version in task.versions if version.retired_at is None}
        for alias in task.aliases:
            numbers = [number for number, _ in alias.weights or ((alias.version, 1.0),)]
            assert numbers, alias
            for number in numbers:
                assert store.get(served[number]), alias
            count += 1
    return count


def check_kept(before: State, now: State, lines: list[dict[str, Any]], actors: Iterable[str]) -> int:
    """What is there now is what was there when the last change was acknowledged.

    `before` is what was there when the killed process began, `lines` what it said, `actors` who the registry's
    events name. One act may have been under way: it may have changed its own task, by events, and put its own
    adapter; a collection may have deleted (`check_sound` sees to it what it must not). Returns how many acts were
    acknowledged.
    """
    done = [line for line in lines if "acknowledged" in line]
    finished = {line["acknowledged"] for line in done}
    under_way = [line for line in lines if "begins" in line and line["begins"] not in finished]
    assert len(under_way) <= 1, under_way
    act = under_way[0] if under_way else {}
    last = done[-1]["state"] if done else before
    changed = {key for key in last.keys() | now.keys() if last.get(key) != now.get(key)}
    wrong = [key for key in changed if not _is_explained(key, now, act, set(actors))]
    assert not wrong, [(key, last.get(key), now.get(key), act) for key in wrong]
    return len(done)


def _is_explained(key: str, now: State, act: dict[str, Any], actors: set[str]) -> bool:
    kind, name, *_ = key.split(" ")
    if kind == "stored":
        return name == act.get("digest") if key in now else bool(act.get("collects"))
    return name == act.get("task") and act["begins"] in actors

"""Several threads, connections and processes on one registry."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from multigraft_adapters.registry import Registry
from tests.registry.conftest import Place
from tests.registry.parts import make_adapter


def assert_no_change_was_lost(registry: Registry, count: int) -> None:
    task = registry.task("shared")
    assert [version.number for version in task.versions] == list(range(1, count + 1))
    assert task.aliases[0].revision == count
    assert registry.change_counter() == len(registry.events(limit=10_000)) == 2 * count
    walked = [task.aliases[0].version] + [registry.rollback("shared").version for _ in range(count - 1)]
    assert walked == list(range(count, 0, -1))


def test_two_processes_that_open_an_empty_registry_together_lose_nothing(place: Place) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "tests.registry.writer", str(place)]
    writers = [subprocess.Popen([*command, name, "20"], env=environment) for name in ("ann", "bob")]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    registry = Registry.open(place, "smollm2")
    assert {event.actor for event in registry.events(limit=10_000)} == {"ann", "bob"}
    assert_no_change_was_lost(registry, 40)
    registry.close()


def test_threads_of_one_registry_lose_nothing(registry: Registry) -> None:
    def add(number: int) -> int:
        version, _ = registry.add_version("shared", make_adapter(str(number)), alias="production")
        return registry.version("shared", version.number).number

    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(add, range(40)))
    assert sorted(numbers) == list(range(1, 41))
    assert_no_change_was_lost(registry, 40)


def test_the_same_adapter_from_many_threads_is_one_version(registry: Registry) -> None:
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda _: registry.add_version("topic", make_adapter("one")), range(16)))
    assert [created for _, created in added].count(True) == 1
    assert {version.number for version, _ in added} == {1}


def test_another_connection_sees_a_change_by_the_counter(registry: Registry, place: Place) -> None:
    other = Registry.open(place, "smollm2")
    before = other.change_counter()
    registry.add_version("topic", make_adapter("one"), alias="production")
    assert other.change_counter() > before
    assert other.resolve("topic") == registry.resolve("topic")
    other.close()

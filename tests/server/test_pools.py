"""Pools of threads."""

from __future__ import annotations

import threading

from multigraft_server.pools import started_pool


def named(prefix: str) -> int:
    return sum(thread.name.startswith(prefix) for thread in threading.enumerate())


def test_a_pool_has_all_its_threads_at_once_and_does_its_work() -> None:
    with started_pool(5, "multigraft-tested") as pool:
        assert named("multigraft-tested") == 5
        assert list(pool.map(lambda number: number + 1, range(20))) == list(range(1, 21))
        assert named("multigraft-tested") == 5
    assert named("multigraft-tested") == 0

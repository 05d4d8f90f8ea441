"""Leases: counted by version, released once, and the books add up."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from multigraft_adapters.errors import IntegrityError
from multigraft_server.leases import Lease, Leases


def test_a_version_is_leased_until_its_last_lease_is_released() -> None:
    leases = Leases()
    first, second = leases.acquire("topic", 1), leases.acquire("topic", 1)
    other = leases.acquire("topic", 2)
    assert (leases.count("topic", 1), leases.count("topic", 2), leases.total) == (2, 1, 3)
    first.release()
    first.release()
    assert leases.count("topic", 1) == 1
    second.release()
    other.release()
    assert leases.total == 0
    leases.check_integrity()


def test_many_threads_leave_the_books_in_order() -> None:
    leases = Leases()

    def work(number: int) -> None:
        for _ in range(200):
            leases.acquire("topic", number % 3).release()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert leases.total == 0
    leases.check_integrity()


def test_books_that_do_not_add_up_are_found() -> None:
    leases = Leases()
    leases.acquire("topic", 1)
    leases._held["topic", 1].add(Lease(leases, ("topic", 1)))
    with pytest.raises(IntegrityError, match="2 counted, 1 acquired"):
        leases.check_integrity()

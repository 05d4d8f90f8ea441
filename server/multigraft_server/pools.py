"""Pools of threads that are all there from the start."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

READING_THREADS = min(32, (os.cpu_count() or 1) + 4)
"""Of what waits for the registry or the disk; as many as Python's own pool would make."""


def started_pool(threads: int, name: str) -> ThreadPoolExecutor:
    """A pool whose threads have all begun.

    Left to itself a pool makes one more whenever more happens at once than ever before, which may be hours after
    the start; with what a thread keeps of memory and files that looks like a leak.
    """
    pool, have_begun = ThreadPoolExecutor(threads, thread_name_prefix=name), threading.Barrier(threads + 1)
    for _ in range(threads):
        pool.submit(have_begun.wait)
    have_begun.wait()
    return pool

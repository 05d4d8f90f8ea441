"""How often an address may be wrong about a key."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from multigraft_adapters.errors import QuotaError
from multigraft_server.access.limits import Bucket

PER_MINUTE = 10
MAX_ADDRESSES = 10_000


class Attempts:
    """Failed logins by address: so many per minute, then none is looked at until the bucket has filled again.
    Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, address: str) -> None:
        """Raises QuotaError when the address was wrong too often."""
        with self._lock:
            bucket = self._buckets.get(address)
            if bucket is not None and bucket.level() < 1:
                raise QuotaError("too many wrong keys; wait a moment", retry_after=bucket.seconds_until(1))

    def failed(self, address: str) -> None:
        """The address was wrong once more."""
        with self._lock:
            bucket = self._buckets.setdefault(address, Bucket(PER_MINUTE, self._clock))
            self._buckets.move_to_end(address)
            bucket.take(1)
            while len(self._buckets) > MAX_ADDRESSES:
                self._buckets.popitem(last=False)

"""What a key may use: requests and tokens per minute, and requests at once; counted in each process alone."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from multigraft_adapters.errors import QuotaError
from multigraft_adapters.registry.keys import NewKey

SECONDS = 60.0
"""What rates are per."""


class Bucket:
    """A token bucket: full at `capacity`, refilled evenly within a minute. What is taken may be more than there
    is: then the next has to wait until it is paid back."""

    def __init__(self, capacity: int, clock: Callable[[], float]) -> None:
        self.capacity = capacity
        self._clock = clock
        self._level = float(capacity)
        self._at = clock()

    def level(self) -> float:
        """How much is there now; below 0 when more was taken."""
        now = self._clock()
        # A clock that went back gives nothing.
        gained = max(0.0, now - self._at) * self.capacity / SECONDS
        self._level, self._at = min(self.capacity, self._level + gained), now
        return self._level

    def take(self, amount: float) -> None:
        """Take some, whether it is there or not."""
        self._level = self.level() - amount

    def seconds_until(self, amount: float) -> float:
        """After how many seconds so much is there."""
        return max(0.0, (amount - self.level()) * SECONDS / self.capacity)


class Limits:
    """The limits of one key and what of them is in use. Thread-safe."""

    def __init__(self, key: NewKey, clock: Callable[[], float] = time.monotonic) -> None:
        self.of = (key.requests_per_minute, key.tokens_per_minute, key.max_concurrent)
        self._requests = Bucket(key.requests_per_minute, clock) if key.requests_per_minute else None
        self._tokens = Bucket(key.tokens_per_minute, clock) if key.tokens_per_minute else None
        self._max_concurrent = key.max_concurrent
        self._open = 0
        self._lock = threading.Lock()

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """A request's stay. Raises QuotaError when it must not begin; then it has cost nothing."""
        with self._lock:
            if self._max_concurrent is not None and self._open >= self._max_concurrent:
                raise QuotaError(
                    f"the key may have {self._max_concurrent} requests at once", headers=self._headers()
                )
            if self._requests is not None and self._requests.level() < 1:
                raise self._exceeded("requests", self._requests, 1)
            if self._requests is not None:
                self._requests.take(1)
            self._open += 1
        try:
            yield
        finally:
            with self._lock:
                self._open -= 1

    def check_tokens(self) -> None:
        """Raises QuotaError when the last minute's tokens are used up."""
        with self._lock:
            if self._tokens is not None and self._tokens.level() <= 0:
                raise self._exceeded("tokens", self._tokens, 1)

    def spend_tokens(self, count: int) -> None:
        """So many tokens were read or written for the key."""
        with self._lock:
            if self._tokens is not None:
                self._tokens.take(count)

    def headers(self) -> dict[str, str]:
        """OpenAI's `x-ratelimit-*`: each limit, what is left of it, and after how long it is whole again."""
        with self._lock:
            return self._headers()

    def _headers(self) -> dict[str, str]:
        headers = {}
        for name, bucket in (("requests", self._requests), ("tokens", self._tokens)):
            if bucket is not None:
                headers[f"x-ratelimit-limit-{name}"] = str(bucket.capacity)
                headers[f"x-ratelimit-remaining-{name}"] = str(max(0, math.floor(bucket.level())))
                headers[f"x-ratelimit-reset-{name}"] = f"{bucket.seconds_until(bucket.capacity):.3f}s"
        return headers

    def _exceeded(self, what: str, bucket: Bucket, wanted: float) -> QuotaError:
        return QuotaError(
            f"the key may use {bucket.capacity} {what} per minute",
            headers=self._headers(),
            retry_after=bucket.seconds_until(wanted),
        )

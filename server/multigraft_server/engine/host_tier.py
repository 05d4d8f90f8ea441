"""Adapters in host memory: loaded from the store by a thread of their own, kept while they are wanted."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from multigraft_adapters.errors import AdapterLoadError, IntegrityError, MultigraftError
from multigraft_adapters.heads import Head
from multigraft_adapters.verify import VerifiedAdapter
from multigraft_server.engine.methods import prepare
from multigraft_server.engine.methods.frozen import FrozenModules
from multigraft_server.engine.methods.prepared import PreparedDelta
from multigraft_server.engine.observer import Observer


@dataclass(frozen=True, slots=True)
class HostAdapter:
    """An adapter ready to be placed: its delta in the banks' layout and dtype, and its head."""

    digest: str
    delta: PreparedDelta
    head: Head

    @property
    def num_bytes(self) -> int:
        return self.delta.nbytes + self.head.nbytes


class HostTier:
    """The middle tier. All methods run on the engine's thread; only the loading itself does not.

    An adapter is wanted by every request that waits for it or runs on it; those that nobody wants are kept,
    least recently wanted evicted first, while `budget_bytes` lasts. One load serves all who wait. A failed load
    is remembered for `retry_s`, so that a broken adapter costs its own callers only.
    """

    def __init__(
        self,
        fetch: Callable[[str], VerifiedAdapter],
        deliver: Callable[[str, HostAdapter | MultigraftError], None],
        *,
        frozen: FrozenModules,
        budget_bytes: int,
        retry_s: float,
        observer: Observer,
    ) -> None:
        self._fetch = fetch
        self._deliver = deliver
        self._frozen = frozen
        self._budget_bytes = budget_bytes
        self._retry_s = retry_s
        self._observer = observer
        self._adapters: OrderedDict[str, HostAdapter] = OrderedDict()
        self._wanted: Counter[str] = Counter()
        self._loading: set[str] = set()
        self._failed: dict[str, tuple[float, MultigraftError]] = {}
        self._num_bytes = 0
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="multigraft-load")

    @property
    def num_bytes(self) -> int:
        """Bytes of the adapters that are here."""
        return self._num_bytes

    def want(self, digest: str, now: float) -> Literal["ready", "loading"]:
        """Note that a request needs the adapter, and load it where it is not here.

        Raises AdapterLoadError while a failure is remembered; then nothing is noted.
        """
        self._raise_remembered(digest, now)
        self._wanted[digest] += 1
        if digest in self._adapters:
            self._adapters.move_to_end(digest)
            return "ready"
        if digest not in self._loading:
            self._loading.add(digest)
            self._threads.submit(self._load, digest)
        return "loading"

    def release(self, digest: str) -> None:
        """A request that wanted the adapter has ended."""
        if self._wanted[digest] < 1:
            raise IntegrityError(f"adapter {digest} is released more often than it was wanted")
        self._wanted[digest] -= 1
        if self._wanted[digest] == 0:
            del self._wanted[digest]

    def arrived(self, digest: str, result: HostAdapter | MultigraftError, now: float) -> None:
        """Take in what a load delivered."""
        self._loading.discard(digest)
        if isinstance(result, MultigraftError):
            self._failed[digest] = (now, result)
            return
        self._adapters[digest] = result
        self._evict()

    def get(self, digest: str) -> HostAdapter:
        """An adapter that is ready."""
        return self._adapters[digest]

    def digests(self) -> tuple[str, ...]:
        """What is here, least recently wanted first."""
        return tuple(self._adapters)

    def close(self) -> None:
        """End the loading threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def check_integrity(self) -> None:
        """Raise IntegrityError when a wanted adapter is neither here nor on its way."""
        lost = [digest for digest in self._wanted if digest not in self._adapters | dict.fromkeys(self._loading)]
        if lost:
            raise IntegrityError(f"wanted adapters are neither in host memory nor loading: {lost}")

    def _load(self, digest: str) -> None:
        started = time.monotonic()
        result: HostAdapter | MultigraftError
        try:
            result = _prepared(self._fetch(digest), self._frozen)
        except MultigraftError as error:
            result = AdapterLoadError(f"adapter {digest} cannot be loaded: {error.message}")
        except Exception as error:
            result = AdapterLoadError(f"adapter {digest} cannot be loaded: {error}")
        outcome: Literal["ok", "error"] = "ok" if isinstance(result, HostAdapter) else "error"
        self._observer.adapter_load(tier="host", seconds=time.monotonic() - started, outcome=outcome)
        self._deliver(digest, result)

    def _raise_remembered(self, digest: str, now: float) -> None:
        if digest not in self._failed:
            return
        failed_at, error = self._failed[digest]
        if now - failed_at < self._retry_s:
            raise error
        del self._failed[digest]

    def _evict(self) -> None:
        self._num_bytes = sum(adapter.num_bytes for adapter in self._adapters.values())
        for digest in [digest for digest in self._adapters if digest not in self._wanted]:
            if self._num_bytes <= self._budget_bytes:
                return
            self._num_bytes -= self._adapters.pop(digest).num_bytes
            self._observer.eviction(tier="host")


def _prepared(adapter: VerifiedAdapter, frozen: FrozenModules) -> HostAdapter:
    return HostAdapter(adapter.digest, prepare(adapter.delta, frozen), adapter.head)

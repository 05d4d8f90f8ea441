"""Adapters in host memory: loaded from the store by threads of their own, kept while they are wanted."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from multigraft_adapters.errors import IntegrityError, MultigraftError
from multigraft_adapters.heads import Head
from multigraft_adapters.verify import VerifiedAdapter
from multigraft_server.engine.failures import FailedLoad, FailedLoads, load_error
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
    num_bytes: int

    @classmethod
    def of(cls, adapter: VerifiedAdapter, frozen: FrozenModules) -> HostAdapter:
        """Prepare an adapter; slow, so never on the engine's thread."""
        delta = prepare(adapter.delta, frozen)
        return cls(adapter.digest, delta, adapter.head, delta.nbytes + adapter.head.nbytes)


class HostTier:
    """The middle tier. All methods run on the engine's thread; only the loading itself does not.

    An adapter is wanted by every request that waits for it or runs on it, and may be kept by a pin. The others
    leave when `budget_bytes` are exceeded: those first that were fetched ahead and never wanted, then the least
    recently wanted. One load serves all who wait; `threads` loads run at once, wanted ones before those ahead,
    and none begins while those that are wanted fill the budget: their requests end, which makes room.
    """

    def __init__(
        self,
        fetch: Callable[[str], VerifiedAdapter],
        deliver: Callable[[str, HostAdapter | MultigraftError], None],
        *,
        frozen: FrozenModules,
        budget_bytes: int,
        threads: int,
        failures: FailedLoads,
        observer: Observer,
    ) -> None:
        self.budget_bytes = budget_bytes
        self._fetch = fetch
        self._deliver = deliver
        self._frozen = frozen
        self._num_threads = threads
        self._failures = failures
        self._observer = observer
        self._adapters: OrderedDict[str, HostAdapter] = OrderedDict()
        self._ahead: OrderedDict[str, None] = OrderedDict()  # of the adapters, those that nobody has wanted yet
        self._num_bytes = 0
        self._wanted: Counter[str] = Counter()
        self._kept: frozenset[str] = frozenset()
        self._leaving: set[str] = set()
        self._queued: OrderedDict[str, None] = OrderedDict()
        self._loading: set[str] = set()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="multigraft-load")

    @property
    def num_bytes(self) -> int:
        """Bytes of the adapters that are here."""
        return self._num_bytes

    def want(self, digest: str, now: float) -> Literal["ready", "loading"]:
        """Note that a request needs the adapter, and load it where it is not here.

        Raises AdapterLoadError or StoreUnavailableError while a failure is remembered; then nothing is noted.
        """
        if digest in self._adapters:
            self._adapters.move_to_end(digest)
            self._ahead.pop(digest, None)
        else:
            self._queue(digest, now)
        self._wanted[digest] += 1
        self._leaving.discard(digest)
        self._start_loads()
        return "ready" if digest in self._adapters else "loading"

    def release(self, digest: str) -> None:
        """A request that wanted the adapter has ended."""
        if self._wanted[digest] < 1:
            raise IntegrityError(f"adapter {digest} is released more often than it was wanted")
        self._wanted[digest] -= 1
        if self._wanted[digest]:
            return
        del self._wanted[digest]
        if digest not in self._kept:
            self._queued.pop(digest, None)  # whoever waited for its load is gone
        self._evict()
        self._start_loads()

    def fetch_ahead(self, digest: str, now: float) -> bool:
        """Load an adapter that requests are expected for; False when it is here already.

        Raises as `want`.
        """
        if digest in self._adapters:
            return False
        self._leaving.discard(digest)
        self._queue(digest, now)
        self._start_loads()
        return True

    def keep(self, digests: frozenset[str], now: float) -> None:
        """From now on these adapters stay, whether they are wanted or not, and no others are kept."""
        self._kept = digests
        self.load_kept(now)
        self._evict()

    def load_kept(self, now: float) -> None:
        """Load those to be kept that are missing and not known to fail."""
        for digest in self._kept - self._adapters.keys():
            if self._failures.error(digest, now) is None:
                self._queue(digest, now)
        self._start_loads()

    def let_go(self, digest: str) -> None:
        """No more requests are expected for the adapter: it leaves as soon as nobody wants it."""
        self._failures.forget(digest)
        self._leaving.add(digest)

    def take_leavers(self) -> list[str]:
        """Take out the adapters that were let go of and that nobody wants any more."""
        gone = [digest for digest in self._leaving if not self._is_needed(digest) and digest not in self._loading]
        for digest in gone:
            self._leaving.discard(digest)
            self._queued.pop(digest, None)
            if digest in self._adapters:
                self._remove(digest)
        return gone

    def arrived(self, digest: str, result: HostAdapter | MultigraftError, now: float) -> None:
        """Take in what a load delivered."""
        self._loading.discard(digest)
        if isinstance(result, MultigraftError):
            self._failures.note(digest, result, now)
        else:
            self._failures.forget(digest)
            self._adapters[digest] = result
            self._num_bytes += result.num_bytes
            if not self._is_needed(digest):
                self._ahead[digest] = None
            self._evict()
        self._start_loads()

    def get(self, digest: str) -> HostAdapter:
        """An adapter that is ready."""
        return self._adapters[digest]

    def __contains__(self, digest: str) -> bool:
        return digest in self._adapters

    def digests(self) -> tuple[str, ...]:
        """What is here, least recently wanted first."""
        return tuple(self._adapters)

    def loading(self) -> tuple[str, ...]:
        """What is being loaded, or is about to be."""
        return (*self._loading, *self._queued)

    def failed(self) -> Mapping[str, FailedLoad]:
        """The failed loads that are remembered."""
        return self._failures.all()

    def close(self) -> None:
        """End the loading threads; a load that hangs in the store is left behind."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def check_integrity(self) -> None:
        """Raise IntegrityError when a wanted adapter is neither here nor coming, or the bytes do not add up."""
        coming = self._adapters.keys() | self._loading | self._queued.keys()
        if lost := self._wanted.keys() - coming:
            raise IntegrityError(f"wanted adapters are neither in host memory nor loading: {sorted(lost)}")
        present = sum(adapter.num_bytes for adapter in self._adapters.values())
        if present != self._num_bytes or not self._ahead.keys() <= self._adapters.keys():
            raise IntegrityError(f"host memory: {present} bytes are there, {self._num_bytes} are counted")
        if present > self.budget_bytes and any(not self._is_needed(digest) for digest in self._adapters):
            raise IntegrityError(f"host memory: {present} bytes, over the budget, and not all of them are needed")

    def _is_needed(self, digest: str) -> bool:
        return digest in self._wanted or digest in self._kept

    def _queue(self, digest: str, now: float) -> None:
        if digest in self._loading or digest in self._queued:
            return
        error = self._failures.error(digest, now)
        if error is not None:
            raise error
        self._queued[digest] = None

    def _start_loads(self) -> None:
        while self._queued and len(self._loading) < self._num_threads and self._has_room():
            digest = next((digest for digest in self._queued if digest in self._wanted), next(iter(self._queued)))
            del self._queued[digest]
            self._loading.add(digest)
            self._threads.submit(self._load, digest)

    def _has_room(self) -> bool:
        """Whether another load may begin. One may always, so that a budget that pins fill stops nobody."""
        if self._num_bytes < self.budget_bytes:
            return True
        needed = sum(self._adapters[digest].num_bytes for digest in self._adapters if self._is_needed(digest))
        if needed < self.budget_bytes:
            return True
        return not self._loading and not any(digest in self._adapters for digest in self._wanted)

    def _load(self, digest: str) -> None:
        started = time.monotonic()
        result: HostAdapter | MultigraftError
        try:
            result = HostAdapter.of(self._fetch(digest), self._frozen)
        except Exception as error:
            result = load_error(digest, error)
        outcome: Literal["ok", "error"] = "ok" if isinstance(result, HostAdapter) else "error"
        self._observer.adapter_load(tier="host", seconds=time.monotonic() - started, outcome=outcome)
        self._deliver(digest, result)

    def _evict(self) -> None:
        if self._num_bytes <= self.budget_bytes:
            return
        for digest in [*self._ahead, *self._adapters]:
            if digest in self._adapters and not self._is_needed(digest):
                self._remove(digest)
                self._observer.eviction(tier="host")
                if self._num_bytes <= self.budget_bytes:
                    return

    def _remove(self, digest: str) -> None:
        self._num_bytes -= self._adapters.pop(digest).num_bytes
        self._ahead.pop(digest, None)

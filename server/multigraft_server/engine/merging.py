"""Which adapter is merged into the base's weights, and the way from one to another."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch

from multigraft_adapters.errors import IntegrityError, MergeRefusedError, MultigraftError
from multigraft_adapters.verify import VerifiedAdapter
from multigraft_server.engine.host_tier import HostTier
from multigraft_server.engine.observer import Direction, Observer
from multigraft_server.engine.prefix_table import PrefixTable
from multigraft_server.engine.requests import MergeSnapshot
from multigraft_server.engine.second_copy import MergedWeights, SecondCopy
from multigraft_server.engine.tiers import Loaded

logger = logging.getLogger(__name__)

PRIORITY = 5
"""Of the building thread, as Linux counts: steps go before it. With the lowest one, 19, it would wait behind other
processes with Python's lock in its hands, and the steps behind it."""

CHECK_S = 1.0
"""Between two looks at a weight, which take some milliseconds each."""


@dataclass(slots=True, eq=False)
class Building:
    """A merge that is on its way: `is_loaded` when its adapter is in host memory, cancelled by an event."""

    digest: str
    told: list[Loaded]
    started: float
    is_loaded: bool = False
    cancelled: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True)
class Built:
    """What a building thread delivers: the merged weights, or why there are none."""

    building: Building
    result: MergedWeights | MultigraftError


class Merger:
    """At most one adapter is merged. All methods run on the engine's thread; only the building itself does not.

    While weights are built, and after a merge has ended, all rows run on the originals. The adapter stays in host
    memory from the wish to the end of its merge.
    """

    def __init__(
        self,
        copy: SecondCopy,
        host: HostTier,
        fetch: Callable[[str], VerifiedAdapter],
        deliver: Callable[[Built], None],
        *,
        prefixes: PrefixTable | None,
        is_off: bool,
        observer: Observer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._copy = copy
        self._host = host
        self._fetch = fetch
        self._deliver = deliver
        self._prefixes = prefixes
        self._is_off = is_off
        self._observer = observer
        self._clock = clock
        self._weights: MergedWeights | None = None
        self._building: Building | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._error: str | None = None
        self._switch_s = 0.0
        self._switches = 0
        self._checked_at = 0.0

    @property
    def is_off(self) -> bool:
        """Whether nothing is merged in this process, whatever is asked for."""
        return self._is_off

    @property
    def weights(self) -> MergedWeights | None:
        """The merged weights, when there are any."""
        return self._weights

    @property
    def num_bytes(self) -> int:
        """Bytes of the second copy."""
        return self._copy.num_bytes

    def want(self, digest: str | None, done: Loaded) -> None:
        """Merge this adapter and no other, or none; another's merge ends at once. `done` is told once: when it is
        merged, or with the error why it is not, after which all runs on the originals."""
        if digest is not None and self._building is not None and self._building.digest == digest:
            self._building.told.append(done)
            return
        self._cancel(MergeRefusedError("another merge, or none, was asked for meanwhile"))
        if digest is None or self._weights is None or self._weights.digest != digest:
            self._restore()
            if digest is not None:
                self._begin(digest, done)
                return
        done(None)

    def arrived(self, digest: str, error: MultigraftError | None) -> None:
        """An adapter has come to host memory, or could not."""
        building = self._building
        if building is None or building.digest != digest or building.is_loaded:
            return
        if error is not None:
            self._fail(building, error)
        else:
            self._build(building)

    def built(self, built: Built) -> None:
        """A building thread has ended: its weights are in use from here on, between two steps."""
        building = built.building
        if building is not self._building:
            return
        if isinstance(built.result, MultigraftError):
            self._fail(building, built.result)
            return
        self._building, self._error = None, None
        self._weights = built.result
        self._note("merge", building.started)
        for done in building.told:
            done(None)

    def let_go(self, digests: Iterable[str]) -> None:
        """No more requests are expected for these: a merge of one of them ends."""
        leaving = frozenset(digests)
        if self._building is not None and self._building.digest in leaving:
            self._cancel(MergeRefusedError("the adapter is being retired"))
        if self._weights is not None and self._weights.digest in leaving:
            self._restore()

    def snapshot(self) -> MergeSnapshot:
        """The state now."""
        building, weights = self._building, self._weights
        digest = building.digest if building else weights.digest if weights else None
        return MergeSnapshot(
            state="building" if building else "merged" if weights else "idle",
            digest=digest,
            error=self._error,
            switch_seconds=self._switch_s,
            switches=self._switches,
            budget_bytes=self._copy.budget_bytes,
        )

    def check_integrity(self) -> None:
        """Raise IntegrityError when a merged adapter is not in host memory or, looked at now and then, a weight is
        not what it was."""
        now = self._clock()
        if self._building is None and now - self._checked_at >= CHECK_S:  # else the copy is being written
            self._checked_at = now
            self._copy.check_integrity(self._weights)
        if self._weights is not None and self._weights.digest not in self._host:
            raise IntegrityError(f"the merged adapter {self._weights.digest} is not in host memory")

    def close(self) -> None:
        """End what is being built; whoever waits for it is told."""
        self._cancel(MergeRefusedError("the engine has ended"))
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def _begin(self, digest: str, done: Loaded) -> None:
        if self._is_off:
            done(MergeRefusedError("merging is off in this process; start it with --merge auto or pin"))
            return
        try:
            state = self._host.want(digest, self._clock())
        except MultigraftError as error:
            self._error = error.message
            done(error)
            return
        self._building = Building(digest, [done], self._clock())
        if state == "ready":
            self._build(self._building)

    def _build(self, building: Building) -> None:
        building.is_loaded = True
        if self._threads is None:
            self._threads = ThreadPoolExecutor(1, thread_name_prefix="multigraft-merge", initializer=_step_back)
        self._threads.submit(self._run, building)

    def _run(self, building: Building) -> None:
        """On the building thread."""
        result: MergedWeights | MultigraftError | None
        try:
            with torch.no_grad():
                result = _finish(self._copy.build(self._fetch(building.digest)), building.cancelled)
        except MultigraftError as error:
            result = error
        except Exception as error:
            logger.error("adapter %s could not be merged", building.digest, exc_info=error)
            result = MergeRefusedError(f"adapter {building.digest} could not be merged: {error}")
        if result is not None:
            self._deliver(Built(building, result))

    def _fail(self, building: Building, error: MultigraftError) -> None:
        self._error = error.message
        self._cancel(error)

    def _cancel(self, error: MultigraftError) -> None:
        building, self._building = self._building, None
        if building is None:
            return
        building.cancelled.set()
        self._host.release(building.digest)
        for done in building.told:
            done(error)

    def _restore(self) -> None:
        """Back to the originals, which were never written."""
        weights, self._weights = self._weights, None
        if weights is not None:
            started = self._clock()
            self._note("restore", started)
            self._host.release(weights.digest)

    def _note(self, direction: Direction, started: float) -> None:
        self._switches += 1
        self._switch_s = self._clock() - started
        if self._prefixes is not None:
            self._prefixes.merged = None if self._weights is None else self._weights.digest
        self._observer.merge_switched(direction=direction, seconds=self._switch_s)


def _finish(pieces: Generator[None, None, MergedWeights], cancelled: threading.Event) -> MergedWeights | None:
    """What comes of the pieces; None when it was cancelled."""
    while not cancelled.is_set():
        try:
            next(pieces)
        except StopIteration as end:
            weights: MergedWeights = end.value
            return weights
    return None


def _step_back() -> None:
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), PRIORITY)

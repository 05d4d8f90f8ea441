"""One prediction from its routing to the last byte of its answer: its lease, its times, its one count."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

from multigraft_adapters.errors import (
    DeadlineError,
    InputError,
    MultigraftError,
    NotFoundError,
    PayloadTooLargeError,
    PermissionDeniedError,
    QuotaError,
    RequestCancelledError,
    UnavailableError,
)
from multigraft_adapters.registry import Version
from multigraft_server.access.callers import ANYONE, Caller
from multigraft_server.engine.requests import BASE_DIGEST, Timing
from multigraft_server.leases import Lease
from multigraft_server.metrics import Metrics, Outcome


@dataclass(frozen=True, slots=True)
class Target:
    """What a reference means at this moment: a version of a task, or the bare base under its name."""

    ref: str
    task: str
    version: Version | None

    @property
    def digest(self) -> str:
        return self.version.digest if self.version else BASE_DIGEST

    @property
    def number(self) -> int:
        """The version's number; 0 for the base."""
        return self.version.number if self.version else 0

    @property
    def task_type(self) -> str | None:
        """The version's task type; None for the base."""
        return self.version.task_type if self.version else None


@dataclass(frozen=True, slots=True)
class Terms:
    """What a caller asks of the routing and the scheduling. Lower priorities go first; None: the server's own
    timeout; only requests of one salt share cached prefixes; those of one sticky key get one version of a split.
    `caller` is who asks, whose tokens count.
    """

    priority: int = 0
    timeout_seconds: float | None = None
    cache_salt: str = ""
    sticky: str | None = None
    caller: Caller = ANYONE


class Call:
    """A prediction that was routed. Owns its lease and its rows in the engine; counts itself exactly once.

    `complete` counts it as answered and is called before the last byte leaves. `close` counts it, by its error
    if there is one, unless it is counted already; ends rows that still run; and releases the lease. As a
    context manager a call closes itself. `arrival`, `deadline`, `first_token` and `ended` are seconds of
    `time.monotonic`; `outcome` is what it was counted as, None before.
    """

    def __init__(
        self, target: Target, lease: Lease, metrics: Metrics, arrival: float, deadline: float, terms: Terms
    ) -> None:
        self.target = target
        self.arrival = arrival
        self.deadline = deadline
        self.terms = terms
        self.step_adapters = 1
        """The most distinct adapters in a step that one of the rows was in."""
        self.outcome: Outcome | None = None
        self.ended: float | None = None
        self.first_token: float | None = None
        self.prompt_tokens = self.generated_tokens = 0
        self.timings: list[Timing] = []
        """Of the rows that are complete."""
        self._lease = lease
        self._metrics = metrics
        self._cancels: list[Callable[[], None]] = []
        self._rows: list[Callable[[MultigraftError], None]] = []
        lease.on_revoke = self._revoke

    def __enter__(self) -> Call:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(error)

    @contextmanager
    def closed_on_error(self) -> Iterator[None]:
        """Close the call if what is inside raises; otherwise it goes on to its next owner."""
        try:
            yield
        except BaseException as error:
            self.close(error)
            raise

    def complete(self) -> None:
        """Count the prediction as answered."""
        self._count("ok")

    def close(self, error: BaseException | None = None) -> None:
        """Count the prediction, end its rows and release its lease. Idempotent."""
        self._count(outcome_of(error))
        for cancel in self._cancels:
            cancel()
        self._lease.release()

    def on_close(self, cancel: Callable[[], None]) -> None:
        """Have `cancel` called when the call closes; it must be harmless after its row's end."""
        self._cancels.append(cancel)

    def on_revoke(self, end: Callable[[MultigraftError], None]) -> None:
        """Have `end` called, from any thread, when the version must not be used any longer."""
        self._rows.append(end)
        if self._lease.revoked is not None:
            end(self._lease.revoked)

    def note_input(self, num_tokens: int) -> None:
        """A row of this prediction is to read so many tokens. Raises QuotaError when the caller's are used up."""
        self.terms.caller.check_tokens()
        self.terms.caller.spend_tokens(num_tokens)
        self.prompt_tokens += num_tokens

    def note_timing(self, timing: Timing) -> None:
        """A row of this prediction is complete."""
        self.step_adapters = max(self.step_adapters, timing.step_adapters)
        self.timings.append(timing)
        self._metrics.queued(self.target.task, max(0.0, timing.started - timing.arrival))

    def note_token(self, now: float, last: float | None) -> None:
        """A row of this prediction has a new token; `last` is when it got the one before."""
        self.terms.caller.spend_tokens(1)
        self.generated_tokens += 1
        if last is None:
            self.first_token = self.first_token or now
            self._metrics.first_token(self.target.task, now - self.arrival)
        else:
            self._metrics.next_token(self.target.task, now - last)

    def _revoke(self, error: MultigraftError) -> None:
        # A row that is added meanwhile sees by itself that the lease is revoked.
        for end in list(self._rows):
            end(error)

    def _count(self, outcome: Outcome) -> None:
        if self.outcome is None:
            self.outcome, self.ended = outcome, time.monotonic()
            self._metrics.request(self.target.task, outcome, self.ended - self.arrival)


def outcome_of(error: BaseException | None) -> Outcome:
    """Under which outcome a prediction that ended with this error is counted."""
    match error:
        case None:
            return "ok"
        case RequestCancelledError() | asyncio.CancelledError() | GeneratorExit():
            return "cancelled"
        case QuotaError():
            return "limited"
        case PermissionDeniedError() | InputError() | NotFoundError() | PayloadTooLargeError():
            return "invalid"
        case UnavailableError():
            return "unavailable"
        case DeadlineError():
            return "deadline"
    return "failed"

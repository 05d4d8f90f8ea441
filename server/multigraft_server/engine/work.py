"""What steps computed, kept for whoever decides what is merged; and the first times of passes, at the start."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Sequence

from multigraft_server.engine.merge_costs import StepSeen
from multigraft_server.engine.plan import PlannedRow, Row
from multigraft_server.engine.requests import BASE_DIGEST, Event, PoolingParams, Request

KEPT_STEPS = 4096
FIRST_SIZES = (1, 4, 16, 64, 256)
"""Tokens of the passes that are timed at the start."""

FIRST_RUNS = 4
"""Of each of them."""


class WorkLog:
    """The steps since they were last taken, the latest ones only. Noted on one thread, taken on another."""

    def __init__(self) -> None:
        self._steps: deque[StepSeen] = deque(maxlen=KEPT_STEPS)
        self._ended = 0.0

    def note(self, rows: Sequence[PlannedRow], started: float, ended: float) -> None:
        """A step computed these rows from `started` to `ended`."""
        tokens: Counter[str] = Counter()
        began: Counter[str] = Counter()
        goes_on = False
        for part in rows:
            digest = part.row.request.digest
            tokens[digest] += part.count
            if part.start == part.row.num_restored:
                began[digest] += 1
            else:
                goes_on = True
        waited = started - self._ended if goes_on else 0.0
        self._ended = ended
        self._steps.append(StepSeen(tokens, began, ended - started, waited))

    def take(self) -> list[StepSeen]:
        """The steps so far, which are then forgotten."""
        return [self._steps.popleft() for _ in range(len(self._steps))]


def base_rows(tokens: int) -> list[PlannedRow]:
    """One row of the bare base with so many tokens, which asks for their states."""
    request = Request(
        id="measure",
        task=BASE_DIGEST,
        digest=BASE_DIGEST,
        token_ids=(0,) * tokens,
        params=PoolingParams("tokens"),
        sink=_ignore,
        arrival=0.0,
    )
    row = Row(request, 0, None, [0] * tokens, 0.0, random.Random(0))
    return [PlannedRow(row, 0, tokens)]


def _ignore(event: Event) -> None:
    """Nobody waits for what was only measured."""

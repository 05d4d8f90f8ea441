"""The requests that wait, and the order in which they are tried."""

from __future__ import annotations

import itertools
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, heapreplace
from typing import NamedTuple

from multigraft_server.engine.fairness import TokenCounters
from multigraft_server.engine.requests import Request, SamplingParams

MOST_PASSED_OVER = 32
"""How many tasks whose next request does not fit are passed over in one step; bounds the step's planning."""
MOST_AGED = 64
"""How many requests are noted as over the age bound in one step, the oldest first; bounds it too."""


class _Kind(NamedTuple):
    """What is tried together: requests of one priority, or the aged ones (None), that generate or that do not."""

    priority: int | None
    generates: bool


@dataclass(slots=True, eq=False)
class _Lane:
    """The requests of one task and kind, in order of arrival."""

    kind: _Kind
    task: str
    requests: OrderedDict[str, Request] = field(default_factory=OrderedDict)
    is_listed: bool = False

    @property
    def first(self) -> Request:
        return next(iter(self.requests.values()))


_Turn = tuple[float, float, int, _Lane]
"""The service that the lane's task has had, its first request's arrival, a serial number, the lane."""


class WaitingRequests:
    """Ordered by priority (lower first), then by the service that the task has had, then by arrival.

    A request over the age bound counts as one of the most urgent priority that waits: priorities and what does
    not fit can hold it up no longer, and the tasks stay in their fair order. All operations cost a logarithm.
    """

    def __init__(self, counters: TokenCounters, age_bound_s: float) -> None:
        self._counters = counters
        self._age_bound_s = age_bound_s
        self._lanes: dict[tuple[_Kind, str], _Lane] = {}
        self._lane_of: dict[str, _Lane] = {}
        # A turn may be out of date: a counter has grown, a lane is empty. That is noticed when it comes up.
        self._turns: dict[_Kind, list[_Turn]] = {}
        self._arrivals: list[tuple[float, int, str]] = []
        self._deadlines: list[tuple[float, int, str]] = []
        self._serial = itertools.count()
        self._by_task: Counter[str] = Counter()
        self._num_pooling = 0

    def __len__(self) -> int:
        return len(self._lane_of)

    def __iter__(self) -> Iterator[Request]:
        return (request for lane in self._lanes.values() for request in lane.requests.values())

    @property
    def num_pooling(self) -> int:
        """How many of them do not generate."""
        return self._num_pooling

    @property
    def num_generating(self) -> int:
        return len(self) - self._num_pooling

    def by_task(self) -> dict[str, int]:
        """How many wait for each task."""
        return dict(self._by_task)

    def get(self, request_id: str) -> Request | None:
        """The waiting request of this id."""
        lane = self._lane_of.get(request_id)
        return lane.requests[request_id] if lane is not None else None

    def add(self, request: Request) -> None:
        """A request waits from now on; its task is active."""
        generates = isinstance(request.params, SamplingParams)
        self._put(request, _Kind(request.priority, generates))
        self._by_task[request.task] += 1
        self._num_pooling += not generates
        heappush(self._arrivals, (request.arrival, next(self._serial), request.id))
        if request.deadline is not None:
            heappush(self._deadlines, (request.deadline, next(self._serial), request.id))
            self._forget_ended_deadlines()

    def take(self, request: Request) -> None:
        """A request waits no longer."""
        self._pull(request)
        self._by_task[request.task] -= 1
        if not self._by_task[request.task]:
            del self._by_task[request.task]
        self._num_pooling -= not isinstance(request.params, SamplingParams)

    def take_late(self, now: float) -> list[Request]:
        """Take out those whose deadline has passed."""
        late = []
        while self._deadlines and self._deadlines[0][0] < now:
            request = self.get(heappop(self._deadlines)[2])
            if request is not None:
                self.take(request)
                late.append(request)
        return late

    def age(self, now: float) -> None:
        """Note which requests are over the age bound."""
        for _ in range(MOST_AGED):
            if not self._arrivals or now - self._arrivals[0][0] <= self._age_bound_s:
                return
            request = self.get(heappop(self._arrivals)[2])
            if request is not None:
                self._pull(request)
                self._put(request, _Kind(None, isinstance(request.params, SamplingParams)))

    def is_aged(self, request: Request) -> bool:
        """Whether a waiting request was over the age bound when `age` was last asked."""
        return self._lane_of[request.id].kind.priority is None

    def in_turn(self, takes: Callable[[bool], bool]) -> Iterator[Request]:
        """Each request that is to be tried now, once the one before it was taken or passed over.

        `takes` says whether generating requests (True) or others (False) are tried at all, and is asked before
        each one. Behind a request that is passed over, none of the same task and kind is tried.
        """
        tried: list[_Turn] = []
        try:
            while len(tried) < MOST_PASSED_OVER and (turn := self._next(takes)) is not None:
                tried.append(turn)
                lane = turn[3]
                request = lane.first
                yield request
                if request.id not in lane.requests:
                    tried.pop()
                    self._list(lane)
        finally:
            for turn in tried:
                self._list(turn[3], turn)

    def _next(self, takes: Callable[[bool], bool]) -> _Turn | None:
        tried = (takes(False), takes(True))
        kinds = [kind for kind in list(self._turns) if tried[kind.generates] and self._has_turn(kind)]
        if len(kinds) > 1:
            most_urgent = min((kind.priority for kind in kinds if kind.priority is not None), default=None)
            kinds = [kind for kind in kinds if kind.priority in (None, most_urgent)]
            kinds.sort(key=lambda kind: self._turns[kind][0])
        if not kinds:
            return None
        turn = heappop(self._turns[kinds[0]])
        turn[3].is_listed = False
        return turn

    def _has_turn(self, kind: _Kind) -> bool:
        """Bring the first turn of a kind up to date; False when it has none."""
        heap = self._turns[kind]
        while heap:
            served, _, _, lane = heap[0]
            if not lane.requests:
                heappop(heap)[3].is_listed = False
            elif self._counters.served(lane.task) > served:
                heapreplace(heap, self._turn(lane))
            else:
                return True
        del self._turns[kind]
        return False

    def _turn(self, lane: _Lane) -> _Turn:
        return self._counters.served(lane.task), lane.first.arrival, next(self._serial), lane

    def _list(self, lane: _Lane, turn: _Turn | None = None) -> None:
        if lane.requests and not lane.is_listed:
            heappush(self._turns.setdefault(lane.kind, []), turn or self._turn(lane))
            lane.is_listed = True

    def _put(self, request: Request, kind: _Kind) -> None:
        lane = self._lanes.get((kind, request.task))
        if lane is None:
            lane = self._lanes[kind, request.task] = _Lane(kind, request.task)
        lane.requests[request.id] = request
        self._lane_of[request.id] = lane
        self._list(lane)

    def _pull(self, request: Request) -> None:
        lane = self._lane_of.pop(request.id)
        del lane.requests[request.id]
        if not lane.requests:
            del self._lanes[lane.kind, lane.task]

    def _forget_ended_deadlines(self) -> None:
        if len(self._deadlines) > 2 * len(self) + 64:
            self._deadlines = [entry for entry in self._deadlines if entry[2] in self._lane_of]
            heapify(self._deadlines)

"""A scheduler without an engine: requests in, steps as the engine would complete them, on a clock of its own."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from multigraft_server.engine.kv_table import KVTable
from multigraft_server.engine.plan import StepPlan
from multigraft_server.engine.requests import Event, PoolingParams, Request, SamplingParams
from multigraft_server.engine.scheduler import Scheduler, StepLimits
from multigraft_server.engine.slots import SlotTable

END_OF_TEXT, STOP, ANSWER = 99, 7, 50
STEP_SECONDS, TOKEN_SECONDS = 0.02, 0.0005


def ignore(event: Event) -> None:
    pass


def make_scheduler(
    *,
    slots: int = 4,
    tokens: int = 64,
    step_rows: int = 16,
    running_rows: int = 8,
    age_bound_s: float = 10.0,
    mixed_tokens: int | None = None,
    adapters: int | None = None,
    slab_tokens: int = 4096,
    num_slabs: int = 1,
) -> Scheduler:
    limits = StepLimits(tokens, step_rows, running_rows, age_bound_s, mixed_tokens, adapters)
    kv = KVTable(slab_tokens=slab_tokens, num_slabs=num_slabs)
    return Scheduler(limits, SlotTable(slots), kv, frozenset({END_OF_TEXT}))


def generate(
    name: str,
    task: str = "base",
    *,
    prompt: int = 4,
    max_tokens: int = 8,
    arrival: float = 0.0,
    priority: int = 0,
    deadline: float | None = None,
) -> Request:
    params = SamplingParams(max_tokens=max_tokens, stop_token_ids=frozenset({STOP}))
    tokens = tuple(range(10, 10 + prompt))
    return Request(name, task, task, tokens, params, ignore, arrival, deadline=deadline, priority=priority)


def classify(name: str, task: str, *, prompt: int = 4, arrival: float = 0.0, priority: int = 0) -> Request:
    params, tokens = PoolingParams("head"), tuple(range(10, 10 + prompt))
    return Request(name, task, task, tokens, params, ignore, arrival, priority=priority)


def parts(plan: StepPlan) -> dict[str, tuple[int, int]]:
    """By request, the part of it that the step computes: start and count."""
    return {part.row.request.id: (part.start, part.count) for part in plan.rows}


def run_step(scheduler: Scheduler, now: float = 0.0, token: int = ANSWER) -> StepPlan:
    """Plan a step and complete it as the engine would, every sampled token being `token`."""
    plan = scheduler.plan(now)
    for part in plan.rows:
        scheduler.advance(part)
    for part in plan.rows:
        if part.row.pooling is not None:
            scheduler.finish(part.row)
        elif part.row.num_pending == 0 and scheduler.append(part.row, token) is not None:
            scheduler.finish(part.row)
    scheduler.check_integrity()
    return plan


@dataclass
class Simulation:
    """Runs a scheduler over requests that arrive at their times; a step lasts as long as it has tokens."""

    scheduler: Scheduler
    now: float = 0.0
    plans: list[StepPlan] = field(default_factory=list)
    started: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    served: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """By task: prompt tokens, and twice the generated ones."""

    def run(self, requests: Iterable[Request], until: float = float("inf")) -> None:
        """Until all have ended, or to a time."""
        coming = sorted(requests, key=lambda request: request.arrival)
        for _ in itertools.count():
            while coming and coming[0].arrival <= self.now:
                self.scheduler.add(coming.pop(0))
            if not coming and not self.scheduler.waiting and not self.scheduler.running:
                return
            if self.now >= until:
                return
            if not self.step().rows:
                self.now = max(self.now + STEP_SECONDS, coming[0].arrival if coming else 0.0)

    def step(self) -> StepPlan:
        """One step."""
        before = {row.request.id for row in self.scheduler.running}
        plan = run_step(self.scheduler, self.now)
        for part in plan.rows:
            self.started.setdefault(part.row.request.id, self.now)
            task = part.row.request.task
            self.served[task] += 2 if part.is_decode else part.count
        self.now += STEP_SECONDS + TOKEN_SECONDS * plan.num_tokens if plan.rows else 0.0
        before |= {part.row.request.id for part in plan.rows} | {request.id for request in plan.expired}
        for name in before - {row.request.id for row in self.scheduler.running}:
            assert name not in self.ended, f"{name} ended twice"
            self.ended[name] = self.now
        self.plans.append(plan)
        return plan

    def wait_of(self, request: Request) -> float:
        """From its arrival to its first step."""
        return self.started[request.id] - request.arrival


def later(request: Request, arrival: float) -> Request:
    """The same request at another time."""
    return replace(request, arrival=arrival)

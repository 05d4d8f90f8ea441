"""A storm on one base: servers on one registry, clients, operators, and what came of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import httpx

from multigraft_loadtest.client import Client
from multigraft_loadtest.problems import LoadTestError
from multigraft_loadtest.random_adapters import TENSORS
from multigraft_loadtest.server import Server, own_data, serving_on
from multigraft_loadtest.shapes import Shape, base_folder, shape_of
from multigraft_loadtest.storm.act import Means, weights_of
from multigraft_loadtest.storm.alphabet import make_alphabet
from multigraft_loadtest.storm.base_files import BaseFiles
from multigraft_loadtest.storm.judge import Answer
from multigraft_loadtest.storm.ledger import PRODUCTION, Ledger, TaskBook
from multigraft_loadtest.storm.marked import METHODS, Kind, Marker
from multigraft_loadtest.storm.merging import merges
from multigraft_loadtest.storm.observed import Observed, observe
from multigraft_loadtest.storm.operations import Operation, Operator
from multigraft_loadtest.storm.traffic import Asking
from multigraft_loadtest.targets import Target
from multigraft_loadtest.workload import Request

OPERATORS = 2
PAUSE_S = 0.5
"""Of an operator, between two operations, on average."""

WARM, SECOND_FROM, SECOND_UNTIL = 0.4, 0.3, 0.7
"""Shares of the time: from when on memory must not grow, and between which a second process takes part."""

HOST_ADAPTERS = 2
"""So many times the slots' adapters stay in host memory; further ones are read from the store again."""

PREFIX_BYTES = 64 * 2**20

SHOW_EVERY_S = 0.25
IDLE_SECONDS = 10.0
ANSWER_SECONDS = 60.0
"""An answer that takes longer is lost."""


Beside = Callable[[Server, Callable[[], float]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much storm."""

    base: str
    data_dir: Path
    seconds: float
    tasks: int
    clients: int
    slots: int
    seed: int
    serve_options: Sequence[str] = ()
    has_second: bool = True
    """Whether a second server process takes part in the middle."""
    beside: Beside | None = None
    """What else is done to the first server meanwhile; called with the seconds since the clients began."""


@dataclass(slots=True)
class Outcome:
    """What came of it. Times are seconds since the clients began."""

    plan: Plan
    ledger: Ledger
    answers: list[Answer] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What went wrong beside the answers."""

    elapsed_s: float = 0.0
    lag_s: float = 0.0
    """How late the storm itself was at most, for want of a free processor."""

    second: tuple[float, float] | None = None
    """When the second process took part."""

    begin: Observed | None = None
    warm: Observed | None = None
    end: Observed | None = None


Progress = Callable[[float, int], None]
"""Called with the seconds that are over and the number of answers."""


def run_phase(plan: Plan, progress: Progress) -> Outcome:
    """Raises LoadTestError."""
    return asyncio.run(_Storm(plan, progress).run())


class _Storm:
    def __init__(self, plan: Plan, progress: Progress) -> None:
        self._plan = plan
        self._progress = progress
        shape = shape_of(plan.base)
        self._shape = shape
        ledger = {f"t{place:02}": TaskBook(f"t{place:02}", _kind(shape, place)) for place in range(plan.tasks)}
        self._outcome = Outcome(plan, ledger)
        self._clients: list[Client | None] = [None, None]
        self._changers: list[httpx.AsyncClient | None] = [None, None]
        self._under_way = [0, 0]
        self._started = perf_counter()

    def _now(self) -> float:
        return perf_counter() - self._started

    async def run(self) -> Outcome:
        plan, outcome = self._plan, self._outcome
        with ExitStack() as stack:
            own = stack.enter_context(own_data(plan.data_dir))
            files = BaseFiles(base_folder(plan.base, plan.data_dir))
            marker = Marker(self._shape, make_alphabet(self._shape, files, plan.seed), plan.seed)
            options = self._options(own, marker)
            first = await asyncio.to_thread(stack.enter_context, serving_on(own, plan.base, options, "first"))
            self._join(0, first)
            draw = random.Random(f"operators {plan.seed}")
            means = Means(marker, self._changers, self._now, draw, self._adapters(own))
            operator = Operator(outcome.ledger, means, merges(plan.serve_options))
            for book in outcome.ledger.values():
                await operator.begin(book)
            if operator.problems:
                raise LoadTestError(operator.problems[0])
            second = None
            if plan.has_second:
                starting = serving_on(own, plan.base, options, "second")
                second = await asyncio.to_thread(stack.enter_context, starting)
            outcome.begin = await asyncio.to_thread(observe, first)
            if operator.is_merging:
                await operator.merge_first()
            self._start_clock()
            try:
                await self._blow(operator, first, second)
            finally:
                outcome.elapsed_s = self._now()
                outcome.operations, outcome.problems = operator.done, operator.problems + outcome.problems
            await self._end(first)
            await self._leave(0)
        return outcome

    def _options(self, own: Path, marker: Marker) -> list[str]:
        """The servers' options: room for few adapters in host memory, so that they are read again and again."""
        kinds = {book.kind for book in self._outcome.ledger.values()}
        made = [marker.make("size", 0, kind, method) for kind in kinds for method in METHODS]
        host = HOST_ADAPTERS * self._plan.slots * max(len(one.files[TENSORS]) for one in made)
        config, folder = own.parent / "storm.toml", self._adapters(own)
        folder.mkdir()
        lines = (f"host_bytes = {host}", f"prefix_cache_bytes = {PREFIX_BYTES}", f"lora_folder = '{folder}'")
        config.write_text("\n".join(lines) + "\n")
        return ["--config", str(config), *self._plan.serve_options, "--slots", str(self._plan.slots)]

    def _adapters(self, own: Path) -> Path:
        """The folder from which servers may load adapters."""
        return own.parent / "adapters"

    def _start_clock(self) -> None:
        """The storm begins now; what was booked before lies before it."""
        now = self._now()
        for book in self._outcome.ledger.values():
            for state in (state for alias in book.aliases.values() for state in alias.states):
                state.sent_s -= now
                state.certain_s -= now
        self._started += now
        for client in filter(None, self._clients):
            client.start_clock(self._started)

    async def _blow(self, operator: Operator, first: Server, second: Server | None) -> None:
        """Clients and operators until the time is over, a second process in the middle if there is one."""
        operator.done.clear()
        seconds = self._plan.seconds
        async with asyncio.TaskGroup() as group:
            for number in range(self._plan.clients):
                group.create_task(self._ask_in_turn(number))
            for number in range(OPERATORS):
                group.create_task(self._operate(operator, number))
            group.create_task(self._show())
            if self._plan.beside is not None:
                group.create_task(self._beside(self._plan.beside, first))
            await asyncio.sleep(seconds * SECOND_FROM)
            joined_s = self._now()
            if second is not None:
                self._join(1, second)
            await asyncio.sleep(seconds * WARM - self._now())
            self._outcome.warm = await asyncio.to_thread(observe, first)
            await asyncio.sleep(seconds * SECOND_UNTIL - self._now())
            if second is not None:
                await self._leave(1, operator)
                self._outcome.second = joined_s, self._now()

    async def _beside(self, beside: Beside, server: Server) -> None:
        await beside(server, self._now)

    def _join(self, place: int, server: Server) -> None:
        """A server process takes part from now on."""
        target = Target("multigraft", ignores_eos=True, extra=_only_the_best)
        client = Client(server.url, target, timeout_s=ANSWER_SECONDS, keeps_outputs=True)
        client.start_clock(self._started)
        self._clients[place] = client
        self._changers[place] = httpx.AsyncClient(base_url=server.url, timeout=ANSWER_SECONDS, trust_env=False)

    async def _leave(self, place: int, operator: Operator | None = None) -> None:
        """A server process gets nothing more, and ends what it has."""
        client, changer = self._clients[place], self._changers[place]
        self._clients[place] = self._changers[place] = None
        while self._under_way[place] or (operator is not None and place in operator.busy):
            await asyncio.sleep(0.02)
        if client and changer:
            client.close()
            await changer.aclose()

    async def _ask_in_turn(self, number: int) -> None:
        """One client, whose requests go to the processes that run in turn."""
        clock = self._now if merges(self._plan.serve_options) else None
        seed = self._plan.seed * 1000 + number
        requests = Asking(self._outcome.ledger, self._shape.family, seed, clock).requests()
        turn = number
        while self._now() < self._plan.seconds:
            running = [place for place, client in enumerate(self._clients) if client is not None]
            place = running[turn % len(running)]
            client = self._clients[place]
            assert client is not None
            turn += 1
            self._under_way[place] += 1
            record = await client.ask(next(requests))
            self._under_way[place] -= 1
            self._outcome.answers.append(Answer(record, place))

    async def _operate(self, operator: Operator, number: int) -> None:
        draw = random.Random(f"pauses {self._plan.seed} {number}")
        while self._now() < self._plan.seconds:
            await asyncio.sleep(draw.expovariate(1 / PAUSE_S))
            await operator.one()

    async def _show(self) -> None:
        while self._now() < self._plan.seconds:
            self._progress(self._now(), len(self._outcome.answers))
            woken_s = self._now() + SHOW_EVERY_S
            await asyncio.sleep(SHOW_EVERY_S)
            self._outcome.lag_s = max(self._outcome.lag_s, self._now() - woken_s)
        self._progress(self._plan.seconds, len(self._outcome.answers))

    async def _end(self, first: Server) -> None:
        """Wait until the server is idle, and compare it with what it should be now."""
        until = perf_counter() + IDLE_SECONDS
        end = await asyncio.to_thread(observe, first)
        while any(end.idle.values()) and perf_counter() < until:
            await asyncio.sleep(0.2)
            end = await asyncio.to_thread(observe, first)
        self._outcome.end = end
        left = {name: count for name, count in end.idle.items() if count}
        if left:
            self._outcome.problems.append(f"when all was over the engine still had {left}")
        for book in self._outcome.ledger.values():
            told = await asyncio.to_thread(first.get, f"/v1/tasks/{book.name}")
            found = {alias["name"]: dict(weights_of(alias)) for alias in told["aliases"]}
            wanted = {name: dict(alias.weights) for name, alias in book.aliases.items() if alias.states}
            if PRODUCTION in wanted:
                route = f"/v1/tasks/{book.name}/aliases/{PRODUCTION}"
                back = (await asyncio.to_thread(first.get, route))["history"]
                trail = [dict(weights) for weights in reversed(book.alias(PRODUCTION).trail)]
                if [dict(weights_of(state)) for state in back] != trail[: len(back)]:
                    self._outcome.problems.append(f"{book.name}'s history is {back}, and should be {trail}")
            if found != wanted:
                self._outcome.problems.append(f"{book.name}'s aliases end as {found}, and should be {wanted}")


def _kind(shape: Shape, place: int) -> Kind:
    """An encoder's tasks classify; of a decoder's, every other one generates."""
    return "generation" if shape.family == "decoder" and place % 2 == 0 else "classification"


def _only_the_best(request: Request) -> dict[str, object]:
    return {"parameters": {"top_k": 1}} if request.kind == "classification" else {}

"""One base: a server that goes from mode to mode, and what it does at each share of the hot task."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from multigraft_loadtest.compare.workloads import (
    C_CLIENTS,
    C_RANK,
    C_TEXTS,
    G_CLIENTS,
    G_RANK,
    OUTPUT_TOKENS,
    PROMPT_WORDS,
    TASKS,
)
from multigraft_loadtest.many.measured import Measured, right
from multigraft_loadtest.problems import LoadTestError
from multigraft_loadtest.random_adapters import head_only, label_count, random_adapter
from multigraft_loadtest.records import Run
from multigraft_loadtest.server import Server, serving
from multigraft_loadtest.shapes import shape_of
from multigraft_loadtest.snippets import load_snippets
from multigraft_loadtest.texts import Lengths, random_texts
from multigraft_loadtest.workload import Traffic, Workload

Side = Literal["base", "never", "always", "auto"]
MERGING: tuple[Side, ...] = ("never", "always", "auto")
SHARES = (0.2, 0.5, 0.8, 0.95, 1.0)
BURSTS = "bursts"
BURST_SHARE, BURST_CV, BURST_LOAD = 0.8, 4.0, 1.3
"""Bursts come faster than they can be answered, so that what is answered in a second tells the capacity."""

BARE = "bare"
SWITCHED_SECONDS = 60.0
STORM_TASKS = 5


@dataclass(frozen=True, slots=True)
class Sizes:
    """Requests of one measurement by workload; seconds of the same load before it, for the policy to see it, and
    for the other sides, so that all begin on an equally busy machine; switches of the check of answers."""

    rounds: int
    g: int
    c: int
    settle_s: float
    warm_s: float
    switches: int

    @classmethod
    def usual(cls, rounds: int | None, switches: int | None, *, is_quick: bool) -> Sizes:
        if is_quick:
            return cls(rounds or 1, 16, 64, 2.5, 1.0, 10 if switches is None else switches)
        return cls(rounds or 3, 32, 192, 3.5, 1.5, 30 if switches is None else switches)


@dataclass(slots=True)
class Base:
    """One base's figures: throughput by place (a share or bursts) and side in every round, latencies of the cold
    tasks by side, what the server said of its merges, and whether answers were the same after the switches."""

    name: str
    unit: str
    rates: dict[str, dict[Side, list[float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    cold_s: dict[Side, list[float]] = field(default_factory=lambda: defaultdict(list))
    engine: Mapping[str, Any] = field(default_factory=dict)
    switches: int = 0
    switch_s: float = 0.0
    is_same: bool | None = None


def measure(name: str, sizes: Sizes, measured: Measured) -> Base:
    """All sides in turn in every round. Raises LoadTestError."""
    stage = _Stage(name, sizes, measured)
    options = [*measured.serve_options, "--merge", "auto"]
    measured.say(f"starting multigraft on {name} with {TASKS} tasks ...")
    with serving(name, measured.data_dir, options) as server:
        stage.upload(server)
        for number in range(sizes.rounds):
            measured.say(f"{name}, round {number + 1} of {sizes.rounds}")
            stage.round(server, number)
        stage.switch_and_compare(server)
        stage.told.engine = server.get("/v1/engine")["merge"]
    return stage.told


class _Stage:
    def __init__(self, name: str, sizes: Sizes, measured: Measured) -> None:
        self._sizes = sizes
        self._measured = measured
        self._shape = shape_of(name)
        self._is_decoder = self._shape.family == "decoder"
        self._texts: Sequence[str] = ()
        if not self._is_decoder:
            self._texts = load_snippets(measured.data_dir) if name == "minilm" else _texts()
        self.told = Base(name, "tokens/s" if self._is_decoder else "texts/s")
        self._tasks: list[str] = []

    def upload(self, server: Server) -> None:
        """The tasks, the first of which is the hot one; and, on an encoder, a head on the bare base."""
        for index in range(TASKS):
            rank, labels = (G_RANK, None) if self._is_decoder else (C_RANK, label_count(index))
            made = random_adapter(self._shape, "lora", index, rank=rank, labels=labels)
            server.upload(made.name, made.files, made.declaration)
            self._tasks.append(made.name)
        if not self._is_decoder:
            bare = head_only(self._shape, BARE, label_count(0))
            server.upload(bare.name, bare.files, bare.declaration)

    def round(self, server: Server, number: int) -> None:
        """Every place with all sides, one after the other, in an order that turns from place to place."""
        turn = number
        for share in SHARES:
            turn += 1
            sides: Sequence[Side] = ("base", *MERGING) if share == 1 else MERGING
            first = turn % len(sides)
            for side in (*sides[first:], *sides[:first]):
                self._measure(server, f"{share:g}", side, share, number)
        capacity = self._capacity()
        for side in MERGING:
            self._measure(server, BURSTS, side, BURST_SHARE, number, rate=BURST_LOAD * capacity)

    def _capacity(self) -> float:
        """Requests per second without a merge, as measured last."""
        rate = self.told.rates[f"{BURST_SHARE:g}"]["never"][-1]
        if rate <= 0:
            raise LoadTestError(f"nothing was answered: {self._measured.wrong[:1]}")
        return rate / (OUTPUT_TOKENS.most if self._is_decoder else C_TEXTS)

    def _measure(
        self, server: Server, place: str, side: Side, share: float, number: int, rate: float | None = None
    ) -> None:
        seed = self._measured.seed + 1000 * number + round(100 * share)
        target = server.target()
        if side == "base":
            tasks: list[str | None] = [None] if self._is_decoder else [BARE]
            traffic = self._traffic(tasks, "uniform", is_even=True)
        else:
            traffic = self._traffic(list(self._tasks), f"hot:{share}", is_even=rate is None)
        self._set(server, side)
        seconds = self._sizes.settle_s if side == "auto" else self._sizes.warm_s
        before = self._workload(traffic, seed + 500, seconds=seconds)
        self._measured.run(f"{self.told.name}, {place}, {side}, before", server, target, before)
        run = self._measured.run(
            f"{self.told.name}, {place}, {side}", server, target, self._workload(traffic, seed, rate=rate)
        )
        self._keep(place, side, run)

    def _keep(self, place: str, side: Side, run: Run) -> None:
        answers = right(run)
        done = sum(record.tokens if self._is_decoder else record.texts for record in answers)
        self.told.rates[place][side].append(done / run.elapsed_s)
        if side != "base" and place != BURSTS:
            self.told.cold_s[side] += [one.total_s for one in answers if one.request.task != self._tasks[0]]
        self._measured.say(f"  {place}, {side}: {done / run.elapsed_s:.1f} {self.told.unit}")

    def _traffic(self, tasks: list[str | None] | list[str], popularity: str, *, is_even: bool) -> Traffic:
        if self._is_decoder:
            return Traffic(
                "generation", tasks, popularity, is_even, prompt_words=PROMPT_WORDS, output_tokens=OUTPUT_TOKENS
            )
        return Traffic("classification", tasks, popularity, is_even, self._texts, C_TEXTS)

    def _workload(
        self, traffic: Traffic, seed: int, *, rate: float | None = None, seconds: float | None = None
    ) -> Workload:
        clients = G_CLIENTS if self._is_decoder else C_CLIENTS
        requests = self._sizes.g if self._is_decoder else self._sizes.c
        return Workload(
            [(traffic, 1.0)],
            clients=None if rate else clients,
            rate=rate,
            cv=BURST_CV,
            num_requests=None if seconds else requests,
            seconds=seconds,
            seed=seed,
            warm_up=0,
        )

    def _set(self, server: Server, side: Side) -> None:
        """Have the server in the side's mode, and wait until what is merged is what should be."""
        if side == "always":
            _send(server, "POST", f"/v1/tasks/{self._tasks[0]}/merge")
        else:
            _send(server, "PUT", "/v1/merge", {"mode": "auto" if side == "auto" else "off"})
        until = time.perf_counter() + SWITCHED_SECONDS
        while side in ("base", "never") and server.get("/v1/engine")["merge"]["state"] != "idle":
            if time.perf_counter() > until:
                raise LoadTestError(f"{server.url} did not go back to its own weights")
            time.sleep(0.05)

    def switch_and_compare(self, server: Server) -> None:
        """Merge several tasks in turn, and compare every task's and the base's answers before and after."""
        if not self._sizes.switches:
            return
        self._measured.say(f"{self.told.name}: {self._sizes.switches} switches between {STORM_TASKS} tasks ...")
        self._set(server, "never")
        before = list(self._answers(server))
        began = time.perf_counter()
        for number in range(self._sizes.switches):
            _send(server, "POST", f"/v1/tasks/{self._tasks[number % STORM_TASKS]}/merge")
        self.told.switch_s = (time.perf_counter() - began) / self._sizes.switches
        self._set(server, "never")
        self.told.is_same = before == list(self._answers(server))
        self.told.switches = self._sizes.switches

    def _answers(self, server: Server) -> Iterator[Any]:
        """Of each task and of the base, one at a time, so that every step is the same."""
        target = server.target()
        for task in (*self._tasks[:STORM_TASKS], None):
            yield _send(server, "POST", "/v1/embeddings", {"model": target.model(None), "input": "a b c"})["data"]
            if task is not None and self._is_decoder:
                body = {"model": task, "prompt": "a b c", "max_tokens": 16, "temperature": 0, "logprobs": 1}
                yield _send(server, "POST", "/v1/completions", body)["choices"]
            elif task is not None:
                yield _send(server, "POST", f"/v1/tasks/{task}/predict", {"inputs": ["one text", "another"]})


def _texts() -> list[str]:
    made = random_texts(Lengths(8, 24), 0)
    return [next(made) for _ in range(64)]


def _send(server: Server, method: str, route: str, body: Any = None) -> Any:
    """The JSON of an answer. Raises LoadTestError."""
    headers = {"authorization": f"Bearer {server.api_key}"} if server.api_key else {}
    answer = httpx.request(
        method, f"{server.url}{route}", json=body, headers=headers, timeout=SWITCHED_SECONDS, trust_env=False
    )
    if not answer.is_success:
        raise LoadTestError(f"{method} {route} answered {answer.status_code}: {answer.text[:300]}")
    return answer.json()

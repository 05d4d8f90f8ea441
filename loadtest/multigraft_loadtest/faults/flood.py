"""More than a server can do: what becomes of what it takes, and of what it refuses."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean, median
from typing import Any

from multigraft_loadtest.client import Client
from multigraft_loadtest.faults.scene import Scene
from multigraft_loadtest.figures import percentile
from multigraft_loadtest.goals import goal
from multigraft_loadtest.many.measured import right
from multigraft_loadtest.processes import on_cores
from multigraft_loadtest.records import Run
from multigraft_loadtest.targets import Target
from multigraft_loadtest.texts import Lengths
from multigraft_loadtest.workload import Traffic, Workload

CLIENTS, TEXTS_EACH, WORDS = 32, 8, Lengths(25, 25)
TIMES = 4.0
LEAST_GOODPUT, MOST_REFUSAL_S, MOST_P99 = 0.9, 0.2, 2.0


@dataclass(frozen=True, slots=True)
class Turn:
    """A load for some seconds."""

    run: Run
    seconds: float

    @property
    def lasted_s(self) -> float:
        """The time in which requests were sent, or the last right answer came."""
        return max([self.seconds, *(record.ended_s for record in right(self.run))])

    @property
    def per_second(self) -> float:
        """Right answers, over all of this time."""
        return len(right(self.run)) / self.lasted_s


@dataclass(slots=True)
class Phase:
    """One load, in turns with others."""

    turns: list[Turn] = field(default_factory=list)

    def told(self) -> dict[str, Any]:
        """As plain values, over all turns."""
        records = [record for turn in self.turns for record in turn.run.records]
        times = [record.total_s for turn in self.turns for record in right(turn.run)]
        refusals = [record.ended_s - record.sent_s for record in records if record.code in ("429", "503")]
        return {
            "offered_per_s": len(records) / sum(turn.seconds for turn in self.turns),
            "right_per_s": len(times) / sum(turn.lasted_s for turn in self.turns),
            "right": len(times),
            "refused": len(refusals),
            "others": len(records) - len(times) - len(refusals),
            "p50_s": percentile(times, 50) if times else None,
            "p99_s": percentile(times, 99) if times else None,
            "refusal_p99_s": percentile(refusals, 99) if refusals else None,
            "refusal_max_s": max(refusals, default=None),
            "lag_s": max(turn.run.lag_s for turn in self.turns),
        }


def flood(scene: Scene, rounds: int, seconds: float) -> dict[str, Any]:
    """Capacity by workload C in a closed loop, then its rate, then four times its rate, in open loops of so many
    seconds; again and again, since machines do not stay as fast as they were; and capacity once more.

    The server is started anew on all cores but one, and the clients have that one: four times as many requests
    would otherwise take from the server what is to be measured.
    """
    clients, server = shared_out(sorted(os.sched_getaffinity(0)))
    scene.restart(cores=server)
    with on_cores(clients):
        told = _loads(scene, rounds, seconds)
    scene.restart()
    cores = {"clients": len(clients), "server": len(server)}
    return told | {"cores": cores, "rows": rows(told)}


def shared_out(cores: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    """The clients' and the server's; where there is one alone, neither has its own."""
    return (cores[:1], cores[1:]) if len(cores) > 1 else ((), ())


def _loads(scene: Scene, rounds: int, seconds: float) -> dict[str, Any]:
    traffic = [(Traffic("classification", scene.tasks, texts_per_request=TEXTS_EACH, prompt_words=WORDS), 1.0)]
    closed = Workload(traffic, clients=CLIENTS, seconds=seconds)
    capacity, once, many = Phase(), Phase(), Phase()
    _run(scene, closed)
    for _ in range(rounds):
        capacity.turns.append(_run(scene, closed))
        rate = capacity.turns[-1].per_second
        for phase, times in ((once, 1.0), (many, TIMES)):
            phase.turns.append(_run(scene, Workload(traffic, rate=times * rate, seconds=seconds, warm_up=0)))
    capacity.turns.append(_run(scene, closed))
    phases = {"capacity": capacity, "at_capacity": once, "flood": many}
    return {name: phase.told() for name, phase in phases.items()} | {"goodputs": goodputs(capacity, many)}


def goodputs(capacity: Phase, many: Phase) -> list[float]:
    """Right answers a second in each flood, to those in the closed loops before and after it."""
    around = pairwise(turn.per_second for turn in capacity.turns)
    return [turn.per_second / fmean(pair) for turn, pair in zip(many.turns, around, strict=True)]


def rows(told: dict[str, Any]) -> list[dict[str, Any]]:
    """The targets. Latencies of an open loop are from the moment at which a request was meant to be sent."""
    capacity, once, many = told["capacity"], told["at_capacity"], told["flood"]
    p99 = many["p99_s"] / once["p99_s"] if many["p99_s"] and once["p99_s"] else None
    closed = many["p99_s"] / capacity["p99_s"] if many["p99_s"] and capacity["p99_s"] else None
    return [
        goal(
            f"flood: goodput, to capacity, median of {len(told['goodputs'])}",
            median(told["goodputs"]),
            LEAST_GOODPUT,
            at_least=True,
        ),
        goal("flood: slowest refusal, seconds", many["refusal_max_s"], MOST_REFUSAL_S),
        goal(f"flood: p99 of the accepted, to that at capacity ({CLIENTS} clients)", closed, MOST_P99),
        goal("flood: the same, to that of an open loop at capacity's rate", p99),
        goal("flood: neither answered nor refused", many["others"], 0),
    ]


def _run(scene: Scene, workload: Workload) -> Turn:
    assert workload.seconds is not None
    client = Client(scene.url, Target("multigraft", ignores_eos=True), timeout_s=60.0)
    return Turn(client.run(workload), workload.seconds)

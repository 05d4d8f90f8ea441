"""More than a server can do: what becomes of what it takes, and of what it refuses."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from multigraft_loadtest.client import Client
from multigraft_loadtest.faults.scene import Scene
from multigraft_loadtest.figures import percentile
from multigraft_loadtest.goals import goal
from multigraft_loadtest.processes import on_cores
from multigraft_loadtest.records import Record, Run
from multigraft_loadtest.targets import Target
from multigraft_loadtest.texts import Lengths
from multigraft_loadtest.workload import Traffic, Workload

CLIENTS, TEXTS_EACH, WORDS = 32, 8, Lengths(25, 25)
TIMES = 4.0
LEAST_GOODPUT, MOST_REFUSAL_S, MOST_P99 = 0.9, 0.2, 2.0


@dataclass(frozen=True, slots=True)
class Phase:
    """One load: what was offered, what was answered."""

    run: Run
    seconds: float

    @property
    def right(self) -> Sequence[Record]:
        return [record for record in self.run.records if record.fate == "right"]

    @property
    def refused(self) -> Sequence[Record]:
        return [record for record in self.run.records if record.code in ("429", "503")]

    @property
    def per_second(self) -> float:
        """Right answers, over the time in which requests were sent or the last of these came."""
        return len(self.right) / max([self.seconds, *(record.ended_s for record in self.right)])

    @property
    def p99_s(self) -> float | None:
        return percentile([record.total_s for record in self.right], 99) if self.right else None

    def told(self) -> dict[str, Any]:
        """As plain values."""
        refusals = [record.ended_s - record.sent_s for record in self.refused]
        others = len(self.run.records) - len(self.right) - len(self.refused)
        return {
            "offered_per_s": len(self.run.records) / self.seconds,
            "right_per_s": self.per_second,
            "right": len(self.right),
            "refused": len(self.refused),
            "others": others,
            "p50_s": percentile([record.total_s for record in self.right], 50) if self.right else None,
            "p99_s": self.p99_s,
            "refusal_p99_s": percentile(refusals, 99) if refusals else None,
            "refusal_max_s": max(refusals, default=None),
            "lag_s": self.run.lag_s,
        }


def flood(scene: Scene, seconds: float) -> dict[str, Any]:
    """Capacity by workload C in a closed loop, then its rate, then four times its rate, in open loops of so many
    seconds; then capacity once more, since machines do not stay as fast as they were.

    The server is started anew on all cores but one, and the clients have that one: four times as many requests
    would otherwise take from the server what is to be measured.
    """
    clients, server = shared_out(sorted(os.sched_getaffinity(0)))
    scene.restart(cores=server)
    with on_cores(clients):
        told = _loads(scene, seconds)
    scene.restart()
    cores = {"clients": len(clients), "server": len(server)}
    return told | {"cores": cores, "rows": rows(told)}


def shared_out(cores: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    """The clients' and the server's; where there is one alone, neither has its own."""
    return (cores[:1], cores[1:]) if len(cores) > 1 else ((), ())


def _loads(scene: Scene, seconds: float) -> dict[str, Any]:
    traffic = Traffic("classification", scene.tasks, texts_per_request=TEXTS_EACH, prompt_words=WORDS)
    _run(scene, Workload([(traffic, 1.0)], clients=CLIENTS, seconds=seconds / 2), seconds / 2)
    capacity = Workload([(traffic, 1.0)], clients=CLIENTS, seconds=seconds)
    closed = _run(scene, capacity, seconds)
    rate = closed.per_second
    once = _run(scene, Workload([(traffic, 1.0)], rate=rate, seconds=seconds, warm_up=0), seconds)
    many = _run(scene, Workload([(traffic, 1.0)], rate=TIMES * rate, seconds=seconds, warm_up=0), seconds)
    after = _run(scene, capacity, seconds)
    phases = {"capacity": closed, "at_capacity": once, "flood": many, "capacity_after": after}
    return {name: phase.told() for name, phase in phases.items()}


def rows(told: dict[str, Any]) -> list[dict[str, Any]]:
    """The targets. Latencies of an open loop are from the moment at which a request was meant to be sent."""
    capacity, once, many = told["capacity"], told["at_capacity"], told["flood"]
    per_second = fmean(told[name]["right_per_s"] for name in ("capacity", "capacity_after"))
    p99 = many["p99_s"] / once["p99_s"] if many["p99_s"] and once["p99_s"] else None
    closed = many["p99_s"] / capacity["p99_s"] if many["p99_s"] and capacity["p99_s"] else None
    return [
        goal(
            "flood: goodput, to capacity",
            many["right_per_s"] / per_second,
            LEAST_GOODPUT,
            at_least=True,
        ),
        goal("flood: slowest refusal, seconds", many["refusal_max_s"], MOST_REFUSAL_S),
        goal(f"flood: p99 of the accepted, to that at capacity ({CLIENTS} clients)", closed, MOST_P99),
        goal("flood: the same, to that of an open loop at capacity's rate", p99),
        goal("flood: neither answered nor refused", many["others"], 0),
    ]


def _run(scene: Scene, workload: Workload, seconds: float) -> Phase:
    client = Client(scene.url, Target("multigraft", ignores_eos=True), timeout_s=60.0)
    return Phase(client.run(workload), seconds)

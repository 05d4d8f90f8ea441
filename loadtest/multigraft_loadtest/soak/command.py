"""`loadtest soak`: from its options to its report and its tables."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, Group
from rich.table import Table

from multigraft_loadtest.goals import COLUMNS, cells, goal, has_missed
from multigraft_loadtest.machine import describe_machine
from multigraft_loadtest.server import Server
from multigraft_loadtest.show import titled
from multigraft_loadtest.soak.sampling import Sample, sample_until
from multigraft_loadtest.soak.slope import slope
from multigraft_loadtest.soak.training import Trained, train_in_turn
from multigraft_loadtest.storm.phase import Plan, run_phase
from multigraft_loadtest.storm.report import summarise_phase
from multigraft_loadtest.storm.show import facts

WARM_UP = 0.5
"""The share of the time after which nothing should grow any more. Of ten minutes the first five fill what is kept
for so long, the latencies of the console; and CPython enlarges its table of interned names in them, once."""

TASKS, CLIENTS, SLOTS = 16, 8, 6
MEMORY = "resident bytes"
WATCHED = {MEMORY: "resident_bytes", "threads": "threads", "descriptors": "descriptors"}


class Soak:
    """What runs beside a storm: samples of the server, and training jobs."""

    def __init__(self, seconds: float, seed: int) -> None:
        self._seconds = seconds
        self._seed = seed
        self.samples: list[Sample] = []
        self.trained = Trained()

    async def beside(self, server: Server, clock: Callable[[], float]) -> None:
        """Until the time is over."""
        assert server.child is not None  # a storm starts its servers
        base = await asyncio.to_thread(server.base)
        training = train_in_turn(server.url, base, self._seconds, clock, self._seed)
        sampling = sample_until(server.child.process.pid, self._seconds, clock)
        self.trained, self.samples = await asyncio.gather(training, sampling)


def soak(options: Mapping[str, Any]) -> dict[str, Any]:
    """Run it; its report. Raises LoadTestError."""
    seconds, started = 60.0 * options["minutes"], datetime.now(UTC)
    beside = Soak(seconds, options["seed"])
    plan = Plan(
        base=options["base"],
        data_dir=options["data_dir"],
        seconds=seconds,
        tasks=TASKS,
        clients=CLIENTS,
        slots=SLOTS,
        seed=options["seed"],
        serve_options=("--with-worker", *options["serve_options"]),
        has_second=False,
        beside=beside.beside,
    )
    Console(stderr=True, highlight=False).print(
        f"soak on {plan.base}: {options['minutes']:g} minutes, {TASKS} tasks, {CLIENTS} clients, a worker ..."
    )
    phase = summarise_phase(run_phase(plan, lambda done_s, answers: None), 0.0)
    return {
        "title": "multigraft loadtest soak",
        "command": shlex.join(["multigraft", *sys.argv[1:]]),
        "started": started.isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "minutes": options["minutes"],
        "phase": phase,
        "jobs": asdict(beside.trained),
        **summarise(phase, beside.trained, beside.samples, seconds),
    }


def summarise(
    phase: Mapping[str, Any], trained: Trained, samples: Sequence[Sample], seconds: float
) -> dict[str, Any]:
    """The slopes after the warm-up, and the targets."""
    warm = [one for one in samples if one.at_s >= WARM_UP * seconds]
    slopes, at_s = {}, [one.at_s for one in warm]
    for name, attribute in WATCHED.items():
        values = [getattr(one, attribute) for one in warm]
        found = slope(at_s, values, of_least=name != MEMORY)
        ends = {"first": values[0], "last": values[-1]} if values else {}
        slopes[name] = None if found is None else asdict(found) | ends
    requests = phase["requests"]
    rows = [
        goal("answers lost or failed", requests["lost"] + requests["failed"], 0),
        goal("answers by another adapter, or otherwise wrong", requests["wrong"], 0),
        goal("operations answered otherwise than they must be", phase["unexpected"], 0),
        goal("training jobs that failed", len(trained.problems), 0),
        goal("training jobs that succeeded", trained.succeeded, 1, at_least=True),
    ]
    for name, one in slopes.items():
        unit = "KiB" if name == MEMORY else name
        size = 1024.0 if name == MEMORY else 1.0
        rows.append(goal(f"growth, at least: {unit} a minute", None if one is None else one["low"] / size, 0))
    return {"slopes": slopes, "samples": [asdict(one) for one in samples], "rows": rows}


def soak_tables(report: Mapping[str, Any]) -> Group:
    """The targets, the slopes, and what happened."""
    targets = titled(f"soak on {report['phase']['base']}, {report['minutes']:g} minutes", *COLUMNS)
    for row in report["rows"]:
        targets.add_row(*cells(row))
    growth = titled("after the warm-up", "what", "first", "last", "a minute", "95% interval")
    for name, one in report["slopes"].items():
        if one is not None:
            shown = [f"{one[key] / _unit(name):.6g}" for key in ("first", "last", "per_minute", "low", "high")]
            growth.add_row(name.replace("bytes", "MiB"), *shown[:3], f"{shown[3]} to {shown[4]}")
    happened = Table(show_header=False)
    for name, value in facts(report["phase"]):
        happened.add_row(name, value)
    jobs = report["jobs"]
    happened.add_row("training jobs", f"{jobs['succeeded']} succeeded, {jobs['unfinished']} cut short at the end")
    problems = [*report["phase"]["problems"], *jobs["problems"]]
    return Group(targets, growth, happened, *(f"  {problem}" for problem in problems))


def exit_code(report: Mapping[str, Any]) -> int:
    """1 when an answer was wrong, lost or failed, or something grew."""
    return int(not report["phase"]["requests"]["right"] or has_missed(report["rows"]))


def _unit(name: str) -> float:
    return 2.0**20 if name == MEMORY else 1.0

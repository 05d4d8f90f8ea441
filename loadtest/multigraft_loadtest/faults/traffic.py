"""Traffic that goes on while a fault happens, and what the fault did to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from multigraft_loadtest.client import Client
from multigraft_loadtest.faults.scene import Scene
from multigraft_loadtest.records import Record
from multigraft_loadtest.targets import Target
from multigraft_loadtest.workload import Request

CLIENTS, TEXTS_EACH = 4, 4
SETTLE_S = 1.5
"""Traffic before a fault, and without a bad answer after it."""
MOST_S = 60.0
"""After which a server has not recovered."""
PAUSE_S = 0.05
NEAR = 0.02
"""Scores that differ by less may change places: a step's company changes their last digits."""
REFUSALS = ("408", "429", "503", "504")

Clock = Callable[[], float]


@dataclass(slots=True)
class Injected:
    """When a fault was lifted, by the clock it was given; what was seen meanwhile, and what was not right."""

    lifted_s: float
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def expect(self, what: str, found: object, *wanted: object) -> None:
        """Note something, as a problem where it is none of what was wanted."""
        self.notes.append(f"{what}: {found}")
        if found not in wanted:
            self.problems.append(f"{what}: {found}, and should be {' or '.join(map(str, wanted))}")


Fault = Callable[[Scene, Clock], Awaitable[Injected]]


async def watched(scene: Scene, fault: Fault) -> dict[str, Any]:
    """Ask before, during and after a fault; what it did, as plain values."""
    target = Target("multigraft", ignores_eos=True)
    client = Client(scene.url, target, timeout_s=20.0, keeps_outputs=True)
    started = perf_counter()
    client.start_clock(started)
    records: list[Record] = []
    is_over = asyncio.Event()

    def clock() -> float:
        return perf_counter() - started

    async def ask_in_turn(number: int) -> None:
        requests = _requests(scene, number)
        while not is_over.is_set():
            record = await client.ask(next(requests))
            judge(record, scene)
            records.append(record)
            if record.fate != "right":
                await asyncio.sleep(PAUSE_S)

    asking = [asyncio.create_task(ask_in_turn(number)) for number in range(CLIENTS)]
    await asyncio.sleep(SETTLE_S)
    began_s = clock()
    injected = await fault(scene, clock)
    while clock() < injected.lifted_s + MOST_S and not _is_well(records, injected.lifted_s, clock()):
        await asyncio.sleep(PAUSE_S)
    is_over.set()
    await asyncio.gather(*asking)
    client.close()
    lost = await asyncio.to_thread(scene.lost)
    return summarise(records, began_s, injected) | {"data_lost": lost}


def summarise(records: Sequence[Record], began_s: float, injected: Injected) -> dict[str, Any]:
    """Counts of what was asked from a moment on, and the seconds from the fault's end to the last bad answer."""
    asked = [record for record in records if record.ended_s >= began_s]
    kinds = [kind_of(record) for record in asked]
    bad = [record.ended_s for record, kind in zip(asked, kinds, strict=True) if kind != "ok"]
    after = [record.ended_s for record in asked if record.fate == "right" and record.ended_s > injected.lifted_s]
    recovered = max([injected.lifted_s, *bad]) if after else None
    return {
        **{name: kinds.count(name) for name in ("ok", "refused", "unreachable", "failed", "lost", "wrong")},
        "recovery_s": None if recovered is None else recovered - injected.lifted_s,
        "notes": injected.notes,
        "problems": injected.problems
        + [f"{record.code}: {record.problem}" for record in asked if kind_of(record) in ("failed", "wrong")][:5],
    }


def kind_of(record: Record) -> str:
    """How a record counts. One whose connection was not taken was not lost: its client knows that."""
    if record.fate == "right":
        return "ok"
    if record.fate == "failed" and record.code in REFUSALS:
        return "refused"
    if record.fate == "lost" and record.problem.startswith("no connection"):
        return "unreachable"
    return record.fate


def judge(record: Record, scene: Scene) -> None:
    """Whether an answer is what its task says of these texts when it is asked alone."""
    if record.fate != "right":
        return
    for text, output in zip(record.request.texts, record.outputs, strict=True):
        expected = scene.expected[str(record.request.task), text]
        if max(expected.values()) - expected.get(output[0]["label"], 0.0) > NEAR:
            record.fate, record.code = "wrong", "content"
            record.problem = f"{record.request.task} says {output[0]} of {text!r}, alone {expected}"


def _is_well(records: Sequence[Record], lifted_s: float, now_s: float) -> bool:
    recent = [record for record in records if record.ended_s > max(lifted_s, now_s - SETTLE_S)]
    return now_s > lifted_s + SETTLE_S and bool(recent) and all(record.fate == "right" for record in recent)


def _requests(scene: Scene, number: int) -> Iterator[Request]:
    place = number
    while True:
        task = scene.tasks[place % len(scene.tasks)]
        start = place * TEXTS_EACH % len(scene.texts)
        yield Request(place, "classification", task, tuple(scene.texts[start : start + TEXTS_EACH]))
        place += 1

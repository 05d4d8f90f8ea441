"""One operation on one task through one server process, and what is booked of it."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from multigraft_loadtest.storm.ledger import AliasBook, TaskBook, VersionBook, Weights
from multigraft_loadtest.storm.marked import METHODS, MarkedAdapter, Marker

UNKNOWN = 0
"""A revision that an upload's answer does not tell."""


class UnexpectedAnswerError(Exception):
    """An operation was not answered as the registry's state demands."""


@dataclass(slots=True)
class Means:
    """What all operations share."""

    marker: Marker
    processes: Sequence[httpx.AsyncClient | None]
    """The server processes; None is one that does not run now."""

    clock: Callable[[], float]
    draw: random.Random
    folder: Path
    """Where servers may load adapters from by vLLM's route."""

    serial: int = 0
    pinned: str | None = None

    def running(self) -> list[tuple[int, httpx.AsyncClient]]:
        """The processes that run now, with their places."""
        return [(place, http) for place, http in enumerate(self.processes) if http is not None]


@dataclass(slots=True)
class Act:
    """One operation on one task through one process."""

    means: Means
    book: TaskBook
    http: httpx.AsyncClient
    process: int

    @property
    def route(self) -> str:
        return f"/v1/tasks/{self.book.name}"

    async def make(self) -> MarkedAdapter:
        """The next adapter for this task."""
        self.means.serial += 1
        method = self.means.draw.choice(METHODS)
        return await asyncio.to_thread(
            self.means.marker.make, self.book.name, self.means.serial, self.book.kind, method
        )

    async def upload(self, made: MarkedAdapter, alias: str | None, expected: int = 201) -> int:
        """Upload an adapter, and book it; its number."""
        sent_s = self.means.clock()
        answer = await self.http.post(
            f"{self.route}/versions",
            params={"alias": alias} if alias else {},
            files=[("file", (name, content)) for name, content in made.files.items()],
            data={"task": json.dumps(made.declaration)},
        )
        told = self.check(answer, expected)
        number, done_s = int(told["version"]), self.means.clock()
        self.book.versions.setdefault(number, VersionBook(number, told["digest"], made.mark))
        if alias:
            book = self.book.alias(alias)
            book.changed({number: 1.0}, sent_s, done_s, self.process)
            book.revision = UNKNOWN
        return number

    async def point(self, alias: str, weights: Weights, **more: Any) -> None:
        """Point an alias at a version, or at several, and book it."""
        sent_s = self.means.clock()
        answer = await self.http.put(f"{self.route}/aliases/{alias}", json=body_of(weights), **more)
        told, done_s = self.check(answer, 200), self.means.clock()
        book = self.book.alias(alias)
        book.changed(weights, sent_s, done_s, self.process)
        self.agree(book, told)

    def agree(self, alias: AliasBook, told: dict[str, Any]) -> None:
        """Hold what the registry says of an alias against what it was told."""
        alias.revision = told["revision"]
        found = weights_of(told)
        if found != alias.weights:
            raise UnexpectedAnswerError(f"the alias is {found}, and should be {alias.weights}")

    def check(self, answer: httpx.Response, *expected: int) -> dict[str, Any]:
        """The JSON of an answer that has one of these statuses; raises UnexpectedAnswerError for another one."""
        if answer.status_code not in expected:
            wanted = " or ".join(map(str, expected))
            raise UnexpectedAnswerError(f"answered {answer.status_code}, not {wanted}: {answer.text[:200]}")
        return answer.json() if answer.content else {}


def body_of(weights: Weights) -> dict[str, Any]:
    """What points an alias at a version, or splits it."""
    if len(weights) == 1:
        return {"version": next(iter(weights))}
    return {"weights": {str(version): weight for version, weight in weights.items()}}


def weights_of(alias: dict[str, Any]) -> Weights:
    """What an alias means, of its JSON."""
    if alias.get("weights"):
        return {int(version): weight for version, weight in alias["weights"].items()}
    return {alias["version"]: 1.0}

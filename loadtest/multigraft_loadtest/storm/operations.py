"""What the operators of a storm do to the registry, and what they must be answered."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from multigraft_loadtest.popularity import shares
from multigraft_loadtest.storm.ledger import PRODUCTION, AliasBook, Ledger, TaskBook, VersionBook, Weights
from multigraft_loadtest.storm.marked import METHODS, MarkedAdapter, Marker

CANARY = "canary"
CHANGED = "zipf:0.7"
"""How often each task is changed; some must be changed often, or there is little to roll back to."""

KEPT_VERSIONS = 3
"""From so many live versions of a task on, one is retired rather than another uploaded."""

SPLITS = (0.1, 0.5, 0.75)
UNKNOWN = 0
"""A revision that an upload's answer does not tell."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One change, or attempt at one. `refused` tells that the storm meant it to be refused, and it was."""

    name: str
    task: str
    process: int
    sent_s: float
    done_s: float
    refused: bool = False


class UnexpectedAnswerError(Exception):
    """An operation was not answered as the registry's state demands."""


@dataclass(slots=True)
class Operator:
    """Does random operations, each through one of the server processes, and books what was acknowledged."""

    ledger: Ledger
    marker: Marker
    processes: Sequence[httpx.AsyncClient | None]
    """The server processes; None is one that does not run now."""

    clock: Callable[[], float]
    draw: random.Random
    done: list[Operation] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    serial: int = 0
    pinned: str | None = None
    busy: list[int] = field(default_factory=list)
    """The processes of the operations under way."""

    async def begin(self, book: TaskBook) -> None:
        """A task's first version."""
        await self._do("begin", book)

    async def one(self) -> None:
        """One random operation on a random task; what is not as it should be is noted as a problem."""
        books = list(self.ledger.values())
        (book,) = self.draw.choices(books, shares(CHANGED, len(books)))
        await self._do(self._choose(), book)

    async def _do(self, name: str, book: TaskBook) -> None:
        process = self.draw.choice([place for place, http in enumerate(self.processes) if http is not None])
        http = self.processes[process]
        assert http is not None
        self.busy.append(process)
        async with book.lock:
            act = _Act(self, book, http, process)
            sent_s = self.clock()
            try:
                refused = await OPERATIONS[name](act)
            except (UnexpectedAnswerError, httpx.HTTPError) as error:
                self.problems.append(f"{name} of {book.name}: {error or type(error).__name__}")
            else:
                if refused is not None:
                    self.done.append(Operation(name, book.name, process, sent_s, self.clock(), refused))
            finally:
                self.busy.remove(process)

    def _choose(self) -> str:
        return self.draw.choices(list(SHARES), list(SHARES.values()))[0]


@dataclass(slots=True)
class _Act:
    """One operation on one task through one process."""

    by: Operator
    book: TaskBook
    http: httpx.AsyncClient
    process: int

    @property
    def route(self) -> str:
        return f"/v1/tasks/{self.book.name}"

    async def make(self) -> MarkedAdapter:
        self.by.serial += 1
        method = self.by.draw.choice(METHODS)
        return await asyncio.to_thread(self.by.marker.make, self.book.name, self.by.serial, self.book.kind, method)

    async def upload(self, made: MarkedAdapter, alias: str | None, expected: int = 201) -> int:
        """Upload an adapter, and book it; its number."""
        sent_s = self.by.clock()
        answer = await self.http.post(
            f"{self.route}/versions",
            params={"alias": alias} if alias else {},
            files=[("file", (name, content)) for name, content in made.files.items()],
            data={"task": json.dumps(made.declaration)},
        )
        told = self.check(answer, expected)
        number, done_s = int(told["version"]), self.by.clock()
        self.book.versions.setdefault(number, VersionBook(number, told["digest"], made.mark))
        if alias:
            book = self.book.alias(alias)
            book.changed({number: 1.0}, sent_s, done_s, self.process)
            book.revision = UNKNOWN
        return number

    async def point(self, alias: str, weights: Weights, **more: Any) -> None:
        """Point an alias at a version, or at several, and book it."""
        sent_s = self.by.clock()
        answer = await self.http.put(f"{self.route}/aliases/{alias}", json=body_of(weights), **more)
        told, done_s = self.check(answer, 200), self.by.clock()
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


async def _begin(act: _Act) -> bool | None:
    await act.upload(await act.make(), PRODUCTION)
    return False


async def _upload(act: _Act) -> bool | None:
    if len(act.book.live) > KEPT_VERSIONS:
        return None
    await act.upload(await act.make(), None)
    return False


async def _upload_and_promote(act: _Act) -> bool | None:
    await act.upload(await act.make(), PRODUCTION)
    return False


async def _upload_twice(act: _Act) -> bool | None:
    """The same content again is the version that it was."""
    if len(act.book.live) > KEPT_VERSIONS:
        return None
    made = await act.make()
    first, second = await act.upload(made, None), await act.upload(made, None, expected=200)
    if first != second:
        raise UnexpectedAnswerError(f"the same content is version {first}, and then {second}")
    return False


async def _upload_broken(act: _Act) -> bool | None:
    """Half of the tensors is refused, and nothing is kept of it."""
    made = await act.make()
    files = {name: content[: len(content) // 2] for name, content in made.files.items()}
    answer = await act.http.post(
        f"{act.route}/versions", files=[("file", (name, content)) for name, content in files.items()]
    )
    act.check(answer, 400)
    return True


async def _promote(act: _Act) -> bool | None:
    await act.point(PRODUCTION, {act.by.draw.choice(act.book.live): 1.0})
    return False


async def _canary(act: _Act) -> bool | None:
    await act.point(CANARY, {act.by.draw.choice(act.book.live): 1.0})
    return False


async def _promote_stale(act: _Act) -> bool | None:
    """With a revision that the alias has no longer, it is refused."""
    body = body_of({act.by.draw.choice(act.book.live): 1.0})
    answer = await act.http.put(
        f"{act.route}/aliases/{PRODUCTION}", json=body, headers={"if-match": '"999999999"'}
    )
    act.check(answer, 409)
    return True


async def _race(act: _Act) -> bool | None:
    """Two promotions at once from the same revision, to versions that are not the present ones: one wins."""
    alias = act.book.alias(PRODUCTION)
    others = [number for number in act.book.live if {number: 1.0} != alias.weights]
    if len(others) < 2 or alias.revision == UNKNOWN:
        return None
    rivals = act.by.draw.sample(others, 2)
    running = [(place, http) for place, http in enumerate(act.by.processes) if http is not None]
    ways = [(act.process, act.http), act.by.draw.choice(running)]
    headers = {"if-match": f'"{alias.revision}"'}
    puts = [
        http.put(f"{act.route}/aliases/{PRODUCTION}", json={"version": version}, headers=headers)
        for (_, http), version in zip(ways, rivals, strict=True)
    ]
    sent_s = act.by.clock()
    answers = await asyncio.gather(*puts)
    done_s = act.by.clock()
    for answer in answers:
        act.check(answer, 200, 409)
    won = [place for place, answer in enumerate(answers) if answer.status_code == 200]
    if len(won) != 1:
        raise UnexpectedAnswerError(f"{len(won)} of two promotions at once were accepted")
    alias.changed({rivals[won[0]]: 1.0}, sent_s, done_s, ways[won[0]][0])
    act.agree(alias, answers[won[0]].json())
    return False


async def _rollback(act: _Act) -> bool | None:
    """Back to the state before; refused where there is none, or where a version of it is retired."""
    alias = act.book.alias(PRODUCTION)
    before = alias.trail[-2] if len(alias.trail) > 1 else None
    sent_s = act.by.clock()
    answer = await act.http.post(f"{act.route}/rollback", json={})
    if before is None or not set(before) <= set(act.book.live):
        act.check(answer, 409)
        return True
    told = act.check(answer, 200)
    alias.rolled_back(sent_s, act.by.clock(), act.process)
    act.agree(alias, told)
    return False


async def _split(act: _Act) -> bool | None:
    """Production, or the canary, over two versions."""
    if len(act.book.live) < 2:
        return None
    first, second = act.by.draw.sample(act.book.live, 2)
    share = act.by.draw.choice(SPLITS)
    alias = act.by.draw.choice((PRODUCTION, PRODUCTION, CANARY))
    await act.point(alias, {first: share, second: 1 - share})
    return False


async def _retire(act: _Act) -> bool | None:
    """A version to which nothing points, and to which no next rollback leads."""
    wanted = act.book.aliased.union(
        *(weights for alias in act.book.aliases.values() for weights in alias.trail[-2:])
    )
    free = [
        version
        for number, version in act.book.versions.items()
        if number in act.book.live and number not in wanted
    ]
    if not free:
        return None
    version = act.by.draw.choice(free)
    version.retiring_s = act.by.clock()
    act.check(await act.http.delete(f"{act.route}/versions/{version.number}"), 200)
    version.retired_s = act.by.clock()
    return False


async def _retire_in_use(act: _Act) -> bool | None:
    """A version to which an alias points stays."""
    number = act.by.draw.choice(sorted(act.book.aliased))
    told = act.check(await act.http.delete(f"{act.route}/versions/{number}"), 409)
    names = [name for name, alias in act.book.aliases.items() if number in alias.weights]
    if not any(name in told["error"]["message"] for name in names):
        raise UnexpectedAnswerError(f"the refusal names none of {names}: {told['error']['message']}")
    return True


async def _pin(act: _Act) -> bool | None:
    """Of all tasks at most one is pinned: this one, or that one no longer."""
    if act.by.pinned is not None:
        name, act.by.pinned = act.by.pinned, None
        act.check(await act.http.delete(f"/v1/tasks/{name}/pin"), 200)
        return False
    answer = await act.http.post(f"{act.route}/pin")
    act.check(answer, 200, 409)
    if answer.status_code == 200:
        act.by.pinned = act.book.name
    return answer.status_code == 409


OPERATIONS: dict[str, Callable[[_Act], Awaitable[bool | None]]] = {
    "begin": _begin,
    "upload": _upload,
    "upload and promote": _upload_and_promote,
    "upload twice": _upload_twice,
    "upload broken": _upload_broken,
    "promote": _promote,
    "canary": _canary,
    "promote stale": _promote_stale,
    "race": _race,
    "rollback": _rollback,
    "split": _split,
    "retire": _retire,
    "retire in use": _retire_in_use,
    "pin": _pin,
}
"""By name. Each returns whether it was refused as it should be; None when there was nothing to do."""

SHARES = {
    "upload": 3,
    "upload and promote": 2,
    "upload twice": 1,
    "upload broken": 1,
    "promote": 5,
    "canary": 2,
    "promote stale": 1,
    "race": 2,
    "rollback": 4,
    "split": 4,
    "retire": 5,
    "retire in use": 1,
    "pin": 1,
}
"""How often each is done, relative to the others."""

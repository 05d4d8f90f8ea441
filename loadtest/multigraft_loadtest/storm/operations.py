"""What the operators of a storm do to the registry."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httpx

from multigraft_loadtest.popularity import shares
from multigraft_loadtest.storm import merging, pointing, uploading
from multigraft_loadtest.storm.act import Act, Means, UnexpectedAnswerError
from multigraft_loadtest.storm.ledger import Ledger, TaskBook

CHANGED = "zipf:0.7"
"""How often each task is changed; some must be changed often, or there is little to roll back to."""

OPERATIONS: dict[str, Callable[[Act], Awaitable[bool | None]]] = {
    "begin": uploading.begin,
    "upload": uploading.upload,
    "upload and promote": uploading.upload_and_promote,
    "upload twice": uploading.upload_twice,
    "upload broken": uploading.upload_broken,
    "load in place": uploading.load_in_place,
    "promote": pointing.promote,
    "canary": pointing.canary,
    "promote stale": pointing.promote_stale,
    "race": pointing.race,
    "rollback": pointing.rollback,
    "split": pointing.split,
    "retire": uploading.retire,
    "retire in use": uploading.retire_in_use,
    "pin": pointing.pin,
    "merge": merging.merge,
    "merge by policy": merging.merge_by_policy,
}
"""By name. Each returns whether it was refused as it should be; None when there was nothing to do."""

SHARES = {
    "upload": 3,
    "upload and promote": 2,
    "upload twice": 1,
    "upload broken": 1,
    "load in place": 2,
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

MERGING = {"merge": 5, "merge by policy": 3}
"""The same of servers that merge."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One change, or attempt at one. `refused` tells that the storm meant it to be refused, and it was."""

    name: str
    task: str
    process: int
    sent_s: float
    done_s: float
    refused: bool = False


@dataclass(slots=True)
class Operator:
    """Does random operations, each through one of the server processes, and books what was acknowledged."""

    ledger: Ledger
    means: Means
    is_merging: bool = False
    done: list[Operation] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    busy: list[int] = field(default_factory=list)
    """The processes of the operations under way."""

    async def begin(self, book: TaskBook) -> None:
        """A task's first version."""
        await self._do("begin", book)

    async def merge_first(self) -> None:
        """Merge the first task that can be, and leave it to the policy then: from here on the memory is taken."""
        for book in self.ledger.values():
            await self._do("merge", book)
            if self.done and self.done[-1].name == "merge" and not self.done[-1].refused:
                break
        await self._do("merge by policy", book)

    async def one(self) -> None:
        """One random operation on a random task; what is not as it should be is noted as a problem."""
        books, draw = list(self.ledger.values()), self.means.draw
        (book,) = draw.choices(books, shares(CHANGED, len(books)))
        shared = SHARES | MERGING if self.is_merging else SHARES
        (name,) = draw.choices(list(shared), list(shared.values()))
        await self._do(name, book)

    async def _do(self, name: str, book: TaskBook) -> None:
        process, http = self.means.draw.choice(self.means.running())
        self.busy.append(process)
        async with book.lock:
            sent_s = self.means.clock()
            try:
                refused = await OPERATIONS[name](Act(self.means, book, http, process))
            except (UnexpectedAnswerError, httpx.HTTPError) as error:
                self.problems.append(f"{name} of {book.name}: {error or type(error).__name__}")
            else:
                if refused is not None:
                    done = Operation(name, book.name, process, sent_s, self.means.clock(), refused)
                    self.done.append(done)
            finally:
                self.busy.remove(process)

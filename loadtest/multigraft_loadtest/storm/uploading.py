"""The operations that make versions, and the one that retires them.

Each returns whether it was refused as it should be; None when there was nothing to do.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from multigraft_loadtest.storm.act import Act, UnexpectedAnswerError
from multigraft_loadtest.storm.ledger import PRODUCTION, VersionBook

KEPT_VERSIONS = 3
"""A task with more live versions gets no other one that nothing points to."""


async def begin(act: Act) -> bool | None:
    await act.upload(await act.make(), PRODUCTION)
    return False


async def upload(act: Act) -> bool | None:
    if len(act.book.live) > KEPT_VERSIONS:
        return None
    await act.upload(await act.make(), None)
    return False


async def upload_and_promote(act: Act) -> bool | None:
    await act.upload(await act.make(), PRODUCTION)
    return False


async def upload_twice(act: Act) -> bool | None:
    """The same content again is the version that it was."""
    if len(act.book.live) > KEPT_VERSIONS:
        return None
    made = await act.make()
    first, second = await act.upload(made, None), await act.upload(made, None, expected=200)
    if first != second:
        raise UnexpectedAnswerError(f"the same content is version {first}, and then {second}")
    return False


async def upload_broken(act: Act) -> bool | None:
    """Half of the tensors is refused, and nothing is kept of it."""
    made = await act.make()
    files = {name: content[: len(content) // 2] for name, content in made.files.items()}
    answer = await act.http.post(
        f"{act.route}/versions", files=[("file", (name, content)) for name, content in files.items()]
    )
    act.check(answer, 400)
    return True


async def load_in_place(act: Act) -> bool | None:
    """The same by vLLM's route, from a folder: the task's production version is another one now."""
    if act.book.kind != "generation":
        return None  # such an adapter has no labels
    made = await act.make()
    folder = act.means.folder / f"adapter-{made.mark.serial}"
    await asyncio.to_thread(_write, folder, made.files)
    body = {"lora_name": act.book.name, "lora_path": str(folder), "load_inplace": True}
    sent_s = act.means.clock()
    answer, done_s = await act.http.post("/v1/load_lora_adapter", json=body), act.means.clock()
    if answer.status_code != 200:
        raise UnexpectedAnswerError(f"answered {answer.status_code}: {answer.text[:200]}")
    told = act.check(await act.http.get(act.route), 200)
    alias = next(alias for alias in told["aliases"] if alias["name"] == PRODUCTION)
    digest = next(one["digest"] for one in told["versions"] if one["version"] == alias["version"])
    act.book.versions[alias["version"]] = VersionBook(alias["version"], digest, made.mark)
    book = act.book.alias(PRODUCTION)
    book.changed({alias["version"]: 1.0}, sent_s, done_s, act.process)
    act.agree(book, alias)
    return False


def _write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)


async def retire(act: Act) -> bool | None:
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
    version = act.means.draw.choice(free)
    version.retiring_s = act.means.clock()
    act.check(await act.http.delete(f"{act.route}/versions/{version.number}"), 200)
    version.retired_s = act.means.clock()
    return False


async def retire_in_use(act: Act) -> bool | None:
    """A version to which an alias points stays."""
    number = act.means.draw.choice(sorted(act.book.aliased))
    told = act.check(await act.http.delete(f"{act.route}/versions/{number}"), 409)
    names = [name for name, alias in act.book.aliases.items() if number in alias.weights]
    if not any(name in told["error"]["message"] for name in names):
        raise UnexpectedAnswerError(f"the refusal names none of {names}: {told['error']['message']}")
    return True

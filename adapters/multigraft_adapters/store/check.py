"""Whether a store holds what the registry says, undamaged, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from multigraft_adapters.errors import IntegrityError, NotFoundError
from multigraft_adapters.registry import Registry
from multigraft_adapters.store.store import Store

Kind = Literal["damaged", "missing", "stray"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: its kind, a digest or a place in the store, and what about it."""

    kind: Kind
    where: str
    reason: str


def check(store: Store, registry: Registry) -> Iterator[Problem]:
    """Reads every adapter of the store and checks its digest, and that those of all versions are there.

    An adapter that no version needs is no problem as long as it is undamaged: it waits for its collection.
    """
    versions = _references(registry)
    for digest in sorted(set(store.digests()) | set(versions)):
        problem = _problem(store, digest, versions.get(digest, []))
        if problem is not None:
            yield problem
    for place in store.strays():
        yield Problem("stray", place, "belongs to no adapter")


def _references(registry: Registry) -> dict[str, list[str]]:
    """The versions that are served (`topic@3`), by the digests that they need."""
    references: dict[str, list[str]] = {}
    for task in registry.tasks():
        for version in task.versions:
            if version.retired_at is None:
                references.setdefault(version.digest, []).append(f"{task.name}@{version.number}")
    return references


def _problem(store: Store, digest: str, references: list[str]) -> Problem | None:
    needed = f"needed by {', '.join(references)}" if references else "needed by no version"
    try:
        store.get(digest)
    except NotFoundError:
        # What no version needs may be collected while this goes on.
        return Problem("missing", digest, f"not in the store; {needed}") if references else None
    except IntegrityError as error:
        return Problem("damaged", digest, f"{error.data['reason']}; {needed}")
    return None

"""What the registry answers: plain, frozen records that outlive the database session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from multigraft_adapters.manifest import Manifest


class Registrable(Protocol):
    """What the registry must know of an adapter; a VerifiedAdapter is one."""

    @property
    def digest(self) -> str: ...

    @property
    def manifest(self) -> Manifest: ...


@dataclass(frozen=True, slots=True)
class Version:
    """One numbered version of a task: which adapter it is and what for. `created_at` is in UTC."""

    task: str
    number: int
    digest: str
    task_type: str
    manifest: Manifest = field(hash=False, repr=False)
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Alias:
    """A movable name for a version. `revision` grows by one with every change: it is the alias' ETag."""

    task: str
    name: str
    version: int
    revision: int


@dataclass(frozen=True, slots=True)
class Task:
    """A routable name with its versions, oldest first, and its aliases, by name."""

    name: str
    versions: tuple[Version, ...]
    aliases: tuple[Alias, ...]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Event:
    """One change of the registry: when (UTC), by whom, of which task. `id` grows with time."""

    id: int
    at: datetime
    actor: str
    action: str
    task: str
    detail: Mapping[str, Any] = field(hash=False)

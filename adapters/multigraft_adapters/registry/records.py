"""What the registry answers: plain, frozen records that outlive the database session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from multigraft_adapters.manifest import Manifest
from multigraft_adapters.registry.splits import Weights, chosen


class Registrable(Protocol):
    """What the registry must know of an adapter; a VerifiedAdapter is one."""

    @property
    def digest(self) -> str: ...

    @property
    def manifest(self) -> Manifest: ...


@dataclass(frozen=True, slots=True)
class Version:
    """One numbered version of a task: which adapter it is and what for. Times are in UTC.

    One with `retired_at` is no longer served.
    """

    task: str
    number: int
    digest: str
    task_type: str
    manifest: Manifest = field(hash=False, repr=False)
    created_at: datetime
    retired_at: datetime | None = None
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Routed:
    """What a reference names now: a version with its weight, or a split's versions by number with theirs."""

    shares: tuple[tuple[Version, float], ...]

    @property
    def is_split(self) -> bool:
        return len(self.shares) > 1

    @property
    def heaviest(self) -> Version:
        """The version that answers most requests, the newest of equals."""
        return max(self.shares, key=lambda share: (share[1], share[0].number))[0]

    def pick(self, point: float) -> Version:
        """The version for a point in [0, 1): of a caller's key, or drawn."""
        return self.shares[chosen((weight for _, weight in self.shares), point)][0]


@dataclass(frozen=True, slots=True)
class Alias:
    """A movable name for a version, or for a split of several, of which `version` is the heaviest.

    `revision` grows by one with every change: it is the alias' ETag.
    """

    task: str
    name: str
    version: int
    revision: int
    weights: Weights | None = None
    """Of a split."""


@dataclass(frozen=True, slots=True)
class AliasState:
    """A state that an alias was set to, and when (UTC); `version` and `weights` as an alias has them."""

    version: int
    weights: Weights | None
    at: datetime


@dataclass(frozen=True, slots=True)
class Task:
    """A routable name with its versions, oldest first, and its aliases, by name.

    One with `pinned_at` is to stay in memory.
    """

    name: str
    versions: tuple[Version, ...]
    aliases: tuple[Alias, ...]
    created_at: datetime
    pinned_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One change of the registry: when (UTC), by whom, of which task. `id` grows with time."""

    id: int
    at: datetime
    actor: str
    action: str
    task: str
    detail: Mapping[str, Any] = field(hash=False)

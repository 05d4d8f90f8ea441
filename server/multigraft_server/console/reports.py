"""The report of an upload, as its page shows it."""

from __future__ import annotations

from dataclasses import dataclass

from multigraft_adapters.checks import Check


@dataclass(frozen=True, slots=True)
class Told:
    """What became of an upload. `version` is None of an adapter that was refused."""

    task: str
    files: tuple[tuple[str, str], ...]
    checks: tuple[Check, ...]
    version: int | None = None
    digest: str = ""
    is_new: bool = True
    alias: str = ""
    problem: str = ""
    """Why an adapter that passed every check did not become a version."""

"""What is gathered while many tasks are measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from multigraft_loadtest.client import Client
from multigraft_loadtest.records import Record, Run
from multigraft_loadtest.report import is_clean, summarise
from multigraft_loadtest.server import Server
from multigraft_loadtest.targets import Target
from multigraft_loadtest.workload import Workload


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured: tasks in use, slots, requests of a round by workload, first uses, tasks registered."""

    rounds: int
    tasks: int
    slots: int
    c: int
    g: int
    cold: int
    registered: int

    @classmethod
    def usual(cls, rounds: int | None, *, is_quick: bool) -> Sizes:
        if is_quick:
            return cls(rounds or 1, 16, 4, 96, 24, 8, 100)
        return cls(rounds or 3, 64, 16, 1500, 192, 48, 2000)


@dataclass(slots=True)
class Measured:
    """The rows of the report, and our own runs in which an answer was wrong, lost or failed."""

    data_dir: Path
    serve_options: Sequence[str]
    seed: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False, markup=False))

    def say(self, text: str) -> None:
        """Tell on the terminal what is going on."""
        self.console.print(text)

    def run(self, name: str, server: Server, target: Target, workload: Workload) -> Run:
        """Run a workload, and note when it is not clean."""
        run = Client(server.url, target, api_key=server.api_key).run(workload)
        report = summarise(run, {})
        if not is_clean(report):
            self.wrong.append(f"{name}: {report['codes']} {report['problems'][:1]}")
        return run


def right(run: Run) -> list[Record]:
    """Its right answers."""
    return [record for record in run.records if record.fate == "right"]

"""One run from a workload to its report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from multigraft_loadtest.client import Client
from multigraft_loadtest.machine import describe_machine
from multigraft_loadtest.report import summarise
from multigraft_loadtest.targets import Target
from multigraft_loadtest.workload import Workload

PROGRESS_EVERY = 16


def measure(
    client: Client, target: Target, workload: Workload, limits: Mapping[str, float], title: str
) -> dict[str, Any]:
    """Run a workload and report it, with what was asked and on which machine."""
    started = datetime.now(UTC)
    with progress(workload) as bar:
        run = client.run(workload, bar)
    return {
        "title": title,
        "command": shlex.join(["multigraft", *sys.argv[1:]]),
        "started": started.isoformat(timespec="seconds"),
        "target": target.name,
        "digests_checked": target.adapters is not None,
        "workload": describe(workload),
        "machine": describe_machine(),
        **summarise(run, limits),
    }


def describe(workload: Workload) -> dict[str, Any]:
    """A workload as plain values; what a seed draws is not listed."""
    return {
        "loop": "open" if workload.is_open else "closed",
        "clients": workload.clients,
        "rate": workload.rate,
        "cv": workload.cv if workload.rate else None,
        "trace": len(workload.trace) or None,
        "requests": workload.num_requests,
        "seconds": workload.seconds,
        "seed": workload.seed,
        "warm_up": workload.warm_up,
        "traffic": [
            {
                "kind": traffic.kind,
                "share": share,
                "tasks": list(traffic.tasks),
                "popularity": traffic.popularity,
                "texts": f"{len(traffic.texts)} of a file" if traffic.texts else "random words",
                "texts_per_request": traffic.texts_per_request,
                "prompt_words": [traffic.prompt_words.least, traffic.prompt_words.most],
                "output_tokens": [traffic.output_tokens.least, traffic.output_tokens.most],
            }
            for traffic, share in workload.traffic
        ],
    }


@contextmanager
def progress(workload: Workload) -> Iterator[Any]:
    """Shows on a terminal how many answers there are; called with their number, it does little work."""
    console = Console(stderr=True)
    columns = (TextColumn("answers"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, refresh_per_second=1, disable=not console.is_terminal) as shown:
        task = shown.add_task("answers", total=workload.num_requests)

        def update(done: int) -> None:
            if done % PROGRESS_EVERY == 0 or done == workload.num_requests:
                shown.update(task, completed=done)

        yield update

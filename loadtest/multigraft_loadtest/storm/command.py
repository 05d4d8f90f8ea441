"""`loadtest swap-storm`: from its options to its report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from multigraft_loadtest.machine import describe_machine
from multigraft_loadtest.storm.phase import Plan, run_phase
from multigraft_loadtest.storm.report import summarise_phase

BASES = ("minilm", "smollm2")
SHARES = {"minilm": 0.4, "smollm2": 0.6}
"""Of the time; other bases have the same time each."""

QUICK = {"minutes": 0.4, "tasks": 12, "clients": 12, "slots": 4}
"""What a quick storm has instead."""


def storm(options: Mapping[str, Any]) -> dict[str, Any]:
    """Run a storm on each base in turn; its report. Raises LoadTestError."""
    sizes = QUICK if options["quick"] else {name: options[name] for name in QUICK}
    bases = options["bases"] or BASES
    shares = {base: SHARES.get(base, 1.0) for base in bases}
    started = datetime.now(UTC)
    phases = []
    for base in bases:
        plan = Plan(
            base=base,
            data_dir=options["data_dir"],
            seconds=60.0 * sizes["minutes"] * shares[base] / sum(shares.values()),
            tasks=int(sizes["tasks"]),
            clients=int(sizes["clients"]),
            slots=int(sizes["slots"]),
            seed=options["seed"],
            serve_options=options["serve_options"],
        )
        phases.append(summarise_phase(_shown(plan), sizes["minutes"] if len(bases) > 1 else 0.0))
    return {
        "title": "multigraft loadtest swap-storm",
        "command": shlex.join(["multigraft", *sys.argv[1:]]),
        "started": started.isoformat(timespec="seconds"),
        "settings": {**sizes, "seed": options["seed"], "bases": list(bases)},
        "machine": describe_machine(),
        "phases": phases,
    }


def _shown(plan: Plan) -> Any:
    """Run one base's storm with a bar of its time."""
    console = Console(stderr=True, highlight=False)
    console.print(f"swap storm on {plan.base}: {plan.tasks} tasks, {plan.slots} slots, {plan.clients} clients ...")
    columns = (TextColumn("{task.fields[answers]} answers"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, refresh_per_second=1, disable=not console.is_terminal) as shown:
        bar = shown.add_task("storm", total=plan.seconds, answers=0)
        return run_phase(plan, lambda done_s, answers: shown.update(bar, completed=done_s, answers=answers))

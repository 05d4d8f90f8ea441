"""`loadtest faults`: from its options to its report and its tables."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, Group

from multigraft_loadtest.faults import wall_clock
from multigraft_loadtest.faults.flood import flood
from multigraft_loadtest.faults.injected import FAULTS, MAY_LOSE
from multigraft_loadtest.faults.scene import Scene, scene_on
from multigraft_loadtest.faults.traffic import watched
from multigraft_loadtest.goals import COLUMNS, cells, has_missed
from multigraft_loadtest.machine import describe_machine
from multigraft_loadtest.problems import CannotStartError
from multigraft_loadtest.show import seconds, titled

FLOOD = "flood"
NAMES = (*FAULTS, FLOOD)
SHOWN = ("ok", "refused", "unreachable", "failed", "lost", "wrong")
LONG_FLOOD, QUICK_FLOOD = (6, 5.0), (1, 3.0)
"""Rounds, and seconds of a load in them."""


def faults(options: Mapping[str, Any]) -> dict[str, Any]:
    """Inject them one after another; the report. Raises LoadTestError."""
    chosen = _chosen(options["rows"])
    started, console = datetime.now(UTC), Console(stderr=True, highlight=False)
    console.print(f"starting a server on {options['base']} ...")
    found, flooded, left_out = [], None, {}
    with scene_on(options["base"], options["data_dir"], options["serve_options"]) as scene:
        for name in chosen:
            console.print(f"{name} ...")
            if name == FLOOD:
                flooded = flood(scene, *(QUICK_FLOOD if options["quick"] else LONG_FLOOD))
            elif name == wall_clock.NAME and wall_clock.find_library() is None:
                left_out[name] = wall_clock.MISSING
            else:
                found.append(_injected(scene, name))
    return {
        "title": "multigraft loadtest faults",
        "command": shlex.join(["multigraft", *sys.argv[1:]]),
        "started": started.isoformat(timespec="seconds"),
        "base": options["base"],
        "machine": describe_machine(),
        "faults": found,
        "flood": flooded,
        "left_out": left_out,
    }


def _injected(scene: Scene, name: str) -> dict[str, Any]:
    around = wall_clock.movable(scene) if name == wall_clock.NAME else nullcontext()
    with around:
        effect = asyncio.run(watched(scene, FAULTS[name]))
    return {"fault": name, "bad": is_bad(name, effect), **effect}


def is_bad(name: str, effect: Mapping[str, Any]) -> bool:
    """Whether a fault did what none may: a wrong answer, an error of ours, lost data or requests, no recovery."""
    lost = 0 if name in MAY_LOSE else effect["lost"]
    return bool(
        effect["wrong"]
        or effect["failed"]
        or lost
        or effect["data_lost"]
        or effect["problems"]
        or effect["recovery_s"] is None
    )


def faults_tables(report: Mapping[str, Any]) -> Group:
    """Fault by fault, and the flood."""
    parts: list[Any] = []
    if report["faults"]:
        table = titled(f"faults on {report['base']}", "fault", *SHOWN, "recovery", "data lost", "")
        for row in report["faults"]:
            recovery = "none" if row["recovery_s"] is None else seconds(row["recovery_s"])
            counts = [str(row[name]) for name in SHOWN]
            table.add_row(row["fault"], *counts, recovery, str(len(row["data_lost"])), "BAD" if row["bad"] else "")
        parts.append(table)
        parts += [f"  {row['fault']}: {'; '.join(_told(row))}" for row in report["faults"] if _told(row)]
    parts += [f"  {name}: left out: {why}" for name, why in report["left_out"].items()]
    if report["flood"]:
        targets = titled("flood", *COLUMNS)
        for row in report["flood"]["rows"]:
            targets.add_row(*cells(row))
        loads = titled("", "load", "offered /s", "right /s", "refused", "p50", "p99", "slowest refusal")
        for name in ("capacity", "at_capacity", "flood"):
            one = report["flood"][name]
            rates = [f"{one[key]:.1f}" for key in ("offered_per_s", "right_per_s")]
            times = ["-" if one[key] is None else seconds(one[key]) for key in ("p50_s", "p99_s", "refusal_max_s")]
            loads.add_row(name.replace("_", " "), *rates, str(one["refused"]), *times)
        parts += [targets, loads]
    return Group(*parts)


def exit_code(report: Mapping[str, Any], *, is_strict: bool) -> int:
    """1 when a fault did what none may, the flood lost something, or, if it is strict, missed a target."""
    is_lossy = report["flood"] is not None and report["flood"]["flood"]["others"] > 0
    is_missed = report["flood"] is not None and has_missed(report["flood"]["rows"])
    return int(any(row["bad"] for row in report["faults"]) or is_lossy or (is_strict and is_missed))


def _told(row: Mapping[str, Any]) -> Sequence[str]:
    return [*row["notes"], *(f"PROBLEM {problem}" for problem in row["problems"])]


def _chosen(names: str | None) -> Sequence[str]:
    chosen = NAMES if names is None else [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in NAMES:
            raise CannotStartError(f"{name!r} is no fault: give some of {','.join(NAMES)}")
    return chosen

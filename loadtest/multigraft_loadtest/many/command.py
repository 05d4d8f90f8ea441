"""`loadtest many`: from its options to its report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from multigraft_loadtest.goals import COLUMNS, cells
from multigraft_loadtest.machine import describe_machine
from multigraft_loadtest.many.cold import measure_cold
from multigraft_loadtest.many.measured import Measured, Sizes
from multigraft_loadtest.many.registered import measure_registered
from multigraft_loadtest.many.slots import measure_slots
from multigraft_loadtest.problems import CannotStartError
from multigraft_loadtest.show import titled
from multigraft_loadtest.snippets import load_snippets

PARTS = ("c", "g", "cold", "registered")


def many(options: Mapping[str, Any]) -> dict[str, Any]:
    """Measure the parts that are asked for; the report. Raises LoadTestError."""
    parts = choose(options["parts"])
    sizes = Sizes.usual(options["rounds"], is_quick=options["quick"])
    measured = Measured(options["data_dir"], options["serve_options"], options["seed"])
    encoder, decoder = options["encoder"], options["decoder"]
    started = datetime.now(UTC)
    if "c" in parts:
        texts = load_snippets(measured.data_dir) if encoder == "minilm" else ()
        measure_slots("C", encoder, texts, sizes, measured)
    if "g" in parts:
        measure_slots("G", decoder, (), sizes, measured)
    if "cold" in parts:
        measure_cold(decoder, sizes, measured)
    if "registered" in parts:
        measure_registered(encoder, sizes, measured)
    return {
        "title": "multigraft loadtest many",
        "command": shlex.join(["multigraft", *sys.argv[1:]]),
        "started": started.isoformat(timespec="seconds"),
        "rounds": sizes.rounds,
        "machine": describe_machine(),
        "rows": measured.rows,
        "wrong": measured.wrong,
    }


def choose(text: str | None) -> list[str]:
    """The parts of `--parts`; all when it is not given. Raises CannotStartError."""
    names = [name.strip() for name in text.split(",")] if text else list(PARTS)
    if unknown := [name for name in names if name not in PARTS]:
        raise CannotStartError(f"there is no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    return names


def many_table(report: Mapping[str, Any]) -> Table:
    """The goals, and what was reached."""
    table = titled(f"many tasks, medians of {report['rounds']} rounds", *COLUMNS)
    for row in report["rows"]:
        table.add_row(*cells(row))
    return table

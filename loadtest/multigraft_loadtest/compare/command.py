"""`loadtest compare` and `loadtest tax`: what they measure, and the tables that they end with."""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table

from multigraft_loadtest.compare.classification import compare_classification
from multigraft_loadtest.compare.generation import Setting, compare_generation
from multigraft_loadtest.compare.memory import measure_memory
from multigraft_loadtest.compare.results import Results
from multigraft_loadtest.compare.rows import NAMES, ONE, ROWS, Row, measurements
from multigraft_loadtest.compare.tax import BASE, measure_tax
from multigraft_loadtest.compare.workloads import G_BASE, Sizes
from multigraft_loadtest.inside import measure_floor
from multigraft_loadtest.machine import describe_machine
from multigraft_loadtest.problems import CannotStartError

C_MEASUREMENTS = ("c.lora", "c1.lora", "c.base", "c.peft", "fair.c")
CAPACITY = {"fair.g": "g.lora", "fair.c": "c.lora"}
MEMORY = ("memory", "growth")
"""What must be measured before."""


def choose(text: str | None) -> list[Row]:
    """The rows of `--rows`; all of them when it is not given. Raises CannotStartError."""
    names = [name.strip() for name in text.split(",")] if text else list(NAMES)
    if unknown := [name for name in names if name not in NAMES]:
        raise CannotStartError(f"there is no row {unknown[0]!r}; there are {', '.join(NAMES)}")
    return [row for row in ROWS if row.name in names]


def compare(options: Mapping[str, Any]) -> dict[str, Any]:
    """Run a comparison; its report. Raises LoadTestError."""
    rows, results = choose(options["rows"]), Results()
    _check_peers(options)
    sizes = Sizes.usual(options["rounds"], is_quick=options["quick"])
    needed = measurements(rows)
    needed |= {CAPACITY[name] for name in needed if name in CAPACITY}
    started = datetime.now(UTC)
    with tempfile.TemporaryDirectory(prefix="multigraft-compare-") as work:
        setting = setting_of(options, Path(work))
        if generation := needed.difference(C_MEASUREMENTS, MEMORY, ("tax", "floor")):
            compare_generation(generation, setting, sizes, results)
        if needed.intersection(C_MEASUREMENTS):
            compare_classification(needed, setting, sizes, results)
        if needed.intersection(MEMORY):
            measure_memory(needed, setting, sizes, results)
        if "tax" in needed:
            told = measure_tax(G_BASE, setting, sizes, results)
            ratios = {name: found["ratio"] for name, found in told.items() if name != BASE}
            results.add("tax", ratio=min(ratios.values()))
            results.notes["tax"] = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
        if "floor" in needed:
            results.add("floor", ratio=measure_floor(G_BASE, setting.data_dir, setting.work))
            results.notes["floor"] = "in process"
    return _report("compare", started, results, sizes) | {"rows": [_row(row, results) for row in rows]}


def tax(options: Mapping[str, Any]) -> dict[str, Any]:
    """Measure what each method costs; its report. Raises LoadTestError."""
    results, sizes = Results(), Sizes.usual(options["rounds"], is_quick=options["quick"])
    started = datetime.now(UTC)
    with tempfile.TemporaryDirectory(prefix="multigraft-tax-") as work:
        told = measure_tax(options["base"], setting_of(options, Path(work)), sizes, results)
    return _report("tax", started, results, sizes) | {"base": options["base"], "tax": told}


def _check_peers(options: Mapping[str, Any]) -> None:
    """A peer that is given must be there, before an hour is spent on the others."""
    for option, program in (("vllm", "vllm"), ("llama_cpp", "llama-server")):
        venv = options[option]
        if venv is not None and not (venv / "bin" / program).is_file():
            raise CannotStartError(f"{venv} is no virtual environment with bin/{program}")


def setting_of(options: Mapping[str, Any], work: Path) -> Setting:
    """Where everything is, as the options say."""
    return Setting(
        data_dir=options["data_dir"],
        work=work,
        vllm=options.get("vllm"),
        llama_cpp=options.get("llama_cpp"),
        serve_options=options["serve_options"],
        seed=options["seed"],
    )


def compare_table(report: Mapping[str, Any]) -> Group:
    """The rows with their ratios beside target and stretch; below them, the notes."""
    table = Table(title=f"medians of {report['rounds']} rounds", title_justify="left")
    table.add_column("row", no_wrap=True)
    table.add_column("what", overflow="fold")
    for column in ("ours", "theirs", "ratio", "target", "stretch"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in report["rows"]:
        sign = "≤" if row["at_most"] else "≥"
        limits = ["" if limit is None else f"{sign} {limit:g}" for limit in (row["target"], row["stretch"])]
        numbers = [_number(row[name]) for name in ("ours", "theirs", "ratio")]
        table.add_row(row["name"], row["what"], *numbers, *limits, row["verdict"])
    notes = [f"{row['name']}: {row['note']}" for row in report["rows"] if row["note"]]
    return Group(table, *notes)


def tax_table(report: Mapping[str, Any]) -> Table:
    """Each method's throughput and its ratio to the base's."""
    table = Table(title=f"8 tasks of each method on {report['base']}", title_justify="left")
    table.add_column("tasks")
    for column in ("per second", "ratio to the base"):
        table.add_column(column, justify="right")
    for name, told in report["tax"].items():
        rate = next(value for figure, value in told.items() if figure != "ratio")
        table.add_row(name, f"{rate:.1f}", f"{told['ratio']:.2f}")
    return table


def is_missed(report: Mapping[str, Any]) -> bool:
    """Whether a row that was measured misses its target."""
    return any(row["verdict"] == "MISSED" for row in report["rows"])


def _report(name: str, started: datetime, results: Results, sizes: Sizes) -> dict[str, Any]:
    return {
        "title": f"multigraft loadtest {name}",
        "command": shlex.join(["multigraft", *sys.argv[1:]]),
        "started": started.isoformat(timespec="seconds"),
        "rounds": sizes.rounds,
        "machine": describe_machine(),
        "measurements": results.rounds,
        "wrong": results.wrong,
    }


def _row(row: Row, results: Results) -> dict[str, Any]:
    figures = results.figures()
    ratio = row.ratio(figures)
    sides = (row.ours, row.theirs) if row.theirs != ONE else ()  # a measured ratio has no two sides
    values = [*(figures.get(name, {}).get(row.figure) for name in sides), None, None]
    notes: Sequence[str] = [results.notes[name] for name in (row.ours, row.theirs) if name in results.notes]
    return {
        "name": row.name,
        "what": row.what,
        "figure": row.figure,
        "ours": values[0],
        "theirs": values[1],
        "ratio": ratio,
        "target": row.target,
        "stretch": row.stretch,
        "at_most": row.at_most,
        "verdict": row.verdict(ratio),
        "note": "; ".join(notes),
    }


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"

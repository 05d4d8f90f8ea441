"""The bench as one program: the cells that are missing are measured, then the tables are made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from multigraft_adapters.bases import check_data_dir
from multigraft_training.bench.cells import Cell, Results, Table
from multigraft_training.bench.data import DATA
from multigraft_training.bench.ledger import Ledger
from multigraft_training.bench.measure import measure
from multigraft_training.bench.show import as_json, markdown
from multigraft_training.bench.tables import TABLES


@dataclass(frozen=True, slots=True)
class Choice:
    """What of the bench is wanted; empty is all."""

    tables: Sequence[str] = ()
    rows: Sequence[str] = ()
    seeds: int | None = None
    is_only_shown: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """The tables with their results, as Markdown and as JSON values."""

    measured: list[tuple[Table, Results]]
    texts: list[str]
    values: list[dict[str, Any]]


def run_bench(choice: Choice, out: Path, data_dir: Path) -> Outcome:
    """Measure the chosen cells that `out` does not hold yet.

    Raises what `multigraft_training.run.run` does, and click's UsageError for a name that is not known.
    """
    tables = _chosen(choice)
    ledger = Ledger(check_data_dir(out))
    missing = [cell for table in tables for cell in table.cells(DATA) if ledger.get(cell) is None]
    for number, cell in enumerate([] if choice.is_only_shown else missing, start=1):
        click.echo(
            f"cell {number} of {len(missing)}: {cell.table}, {cell.row} on {cell.data}, seed {cell.seed}", err=True
        )
        measured = measure(cell, DATA[cell.data], data_dir, out / "runs")
        ledger.add(cell, measured)
        took = f"{measured['cpu_seconds']:.0f} CPU seconds"
        click.echo(f"  {DATA[cell.data].metric} {measured['metric']:.4f} in {took}", err=True)
    made = [(table, Results(dict(_measured(table, ledger)))) for table in tables]
    return Outcome(
        made,
        [markdown(table, results, DATA) for table, results in made],
        [as_json(table, results) for table, results in made],
    )


def _chosen(choice: Choice) -> list[Table]:
    for wanted, known in (
        (choice.tables, list(TABLES)),
        (choice.rows, [row.name for table in TABLES.values() for row in table.rows]),
    ):
        if unknown := sorted(set(wanted) - set(known)):
            raise click.UsageError(f"{unknown[0]!r} is not one of {', '.join(dict.fromkeys(known))}")
    tables = [table for name, table in TABLES.items() if not choice.tables or name in choice.tables]
    made = [
        replace(
            table,
            rows=tuple(row for row in table.rows if not choice.rows or row.name in choice.rows),
            seeds=table.seeds[: choice.seeds],
        )
        for table in tables
    ]
    return [table for table in made if table.rows]


def _measured(table: Table, ledger: Ledger) -> Iterator[tuple[Cell, Any]]:
    for cell in table.cells(DATA):
        known = ledger.get(cell)
        if known is not None:
            yield cell, known

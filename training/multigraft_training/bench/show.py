"""The tables of the bench as Markdown, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from multigraft_training.bench.cells import Data, Goal, Results, Table


def markdown(table: Table, results: Results, known: dict[str, Data]) -> str:
    """A table as docs/training.md holds it: the metric with its deviation, and what a row took on average."""
    heads = [*(f"{name} ({known[name].metric})" for name in table.data)]
    lines = [
        f"{table.title}; {len(table.seeds)} seeds",
        "",
        f"| row | {' | '.join(heads)} | trained parameters | CPU seconds | artifact |",
        f"|---|{'---|' * (len(heads) + 3)}",
        *(_line(table, row.name, results, known) for row in table.rows),
    ]
    return "\n".join([*lines, "", *_goal_lines(table.goals(results))]).strip() + "\n"


def as_json(table: Table, results: Results) -> dict[str, Any]:
    """The same as values."""
    names = ("metric", "trained", "bytes", "seconds", "cpu_seconds", "epochs")
    return {
        "table": table.name,
        "rows": {
            row.name: {data: {name: results.values(row.name, data, name) for name in names} for data in table.data}
            for row in table.rows
        },
        "goals": [{"text": one.text, "value": one.value, "met": one.is_met} for one in table.goals(results)],
    }


def _line(table: Table, row: str, results: Results, known: dict[str, Data]) -> str:
    metrics = [_metric(results, row, data, known[data].metric) for data in table.data]
    trained, size = (results.mean(row, table.data[0], name) for name in ("trained", "bytes"))
    took = results.average(
        row, [data for data in table.data if results.mean(row, data) is not None], "cpu_seconds"
    )
    cells = [
        *metrics,
        "" if trained is None else f"{trained:,.0f}",
        "" if took is None else f"{took:.0f}",
        "" if size is None else f"{size / 1e6:.2f} MB",
    ]
    return f"| {row} | {' | '.join(cells)} |"


def _metric(results: Results, row: str, data: str, metric: str) -> str:
    mean, deviation = results.mean(row, data), results.deviation(row, data)
    if mean is None:
        return ""
    scale, digits = (1, 3) if "loss" in metric else (100, 1)
    spread = "" if deviation is None else f" ± {deviation * scale:.{digits}f}"
    return f"{mean * scale:.{digits}f}{spread}"


def _goal_lines(goals: list[Goal]) -> Iterator[str]:
    if goals:
        yield from ("| target | measured | |", "|---|---|---|")
    for goal in goals:
        word = "" if goal.is_met is None else "met" if goal.is_met else "MISSED"
        yield f"| {goal.text} | {goal.value} | {word} |"

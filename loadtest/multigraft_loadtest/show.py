"""A report as tables in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from multigraft_loadtest.figures import PERCENTILES

MAX_TASKS = 16
NAMES = {
    "total": "end to end",
    "first_token": "first token",
    "per_token": "per token",
    "inter_token": "between events",
}
"""The latencies, as people read them."""


def seconds(value: float | None) -> str:
    """A time, in the unit that suits it."""
    if value is None:
        return "-"
    if value >= 0.9995:
        return f"{value:.2f} s"
    return f"{value * 1000:.0f} ms" if value >= 0.1 else f"{value * 1000:.3g} ms"


def show_report(console: Console, report: Mapping[str, Any]) -> None:
    """Print all tables."""
    latencies = [_latencies(kind, told) for kind, told in report["kinds"].items() if told["requests"]]
    for table in (_totals(report), *latencies, _tasks(report)):
        console.print(table)
    for problem in report["problems"]:
        console.print(f"  {problem}", style="red")


def titled(title: str, first: str, *columns: str) -> Table:
    """A table whose first column holds names, the others numbers."""
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _totals(report: Mapping[str, Any]) -> Table:
    table = titled(str(report["title"]), "what", "figure")
    requests, rates = report["requests"], report["throughput"]
    fates = ", ".join(f"{requests[fate]} {fate}" for fate in ("right", "wrong", "failed", "lost"))
    table.add_row("requests", f"{requests['asked']}: {fates}")
    table.add_row("codes", ", ".join(f"{count} x {code}" for code, count in report["codes"].items()))
    table.add_row("mismatched digests", str(report["mismatched"]) if report["digests_checked"] else "not told")
    table.add_row("elapsed", seconds(report["elapsed_s"]))
    table.add_row("requests/s", f"{rates['requests_per_s']:.2f}")
    for name, unit in (("output_tokens_per_s", "output tokens/s"), ("texts_per_s", "texts/s")):
        if rates[name]:
            table.add_row(unit, f"{rates[name]:.1f}")
    if goodput := report["goodput"]:
        limits = ", ".join(f"{name} {limit:g} s" for name, limit in goodput["limits"].items())
        table.add_row(f"goodput ({limits})", f"{goodput['requests_per_s']:.2f}/s, {goodput['share']:.1%}")
    table.add_row("Jain's index over tasks", "-" if report["jain"] is None else f"{report['jain']:.3f}")
    if report["workload"]["loop"] == "open":
        table.add_row("latest sending after the intended time", seconds(report["lag_s"]))
    return table


def _latencies(kind: str, told: Mapping[str, Any]) -> Table:
    columns = ("mean", *(f"p{at}" for at in PERCENTILES), "max")
    table = titled(f"{kind}: latency, from the intended arrival", "what", *columns)
    for name, figures in told["latency_s"].items():
        table.add_row(NAMES[name], *(seconds(figures[column]) for column in columns))
    return table


def _tasks(report: Mapping[str, Any]) -> Table:
    units = {"output_tokens_per_s": "tokens/s", "texts_per_s": "texts/s"}
    rates = [name for name in units if report["throughput"][name]]
    table = titled("tasks", "task", "share", "right", "not", *(units[name] for name in rates), "p50", "p95", "p99")
    told = list(report["tasks"].items())
    for task, figures in told[:MAX_TASKS]:
        asked, right = figures["requests"]["asked"], figures["requests"]["right"]
        total = figures["total_s"] or {}
        shown = [f"{figures['share']:.1%}", str(right), str(asked - right)]
        shown += [f"{figures['throughput'][name]:.1f}" for name in rates]
        table.add_row(task, *shown, *(seconds(total.get(f"p{at}")) for at in (50, 95, 99)))
    if len(told) > MAX_TASKS:
        table.caption = f"and {len(told) - MAX_TASKS} more; --json and --html have them all"
    return table

"""A storm's report in the terminal and as a page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from rich.console import Group
from rich.table import Table

from multigraft_loadtest.goals import COLUMNS, cells
from multigraft_loadtest.page import plots, table, whole_page
from multigraft_loadtest.plots import draw_lines, draw_marks
from multigraft_loadtest.show import seconds, titled

LINES = {
    "requests_per_s": "requests per second",
    "texts_per_s": "texts per second",
    "tokens_per_s": "tokens per second",
}


def storm_tables(report: Mapping[str, Any]) -> Group:
    """The targets, and what happened, of each base."""
    parts: list[Any] = []
    for phase in report["phases"]:
        targets = titled(f"swap storm on {phase['base']}", *COLUMNS)
        for row in phase["rows"]:
            targets.add_row(*cells(row))
        happened = Table(show_header=False)
        for name, value in facts(phase):
            happened.add_row(name, value)
        parts += [targets, happened, *(f"  {problem}" for problem in phase["problems"])]
    return Group(*parts)


def facts(phase: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What happened, in words."""
    requests, pause, memory = phase["requests"], phase["pause"], phase["memory"]
    yield "requests", ", ".join(f"{count} {name}" for name, count in requests.items())
    yield "of these", f"{phase['streams']} streams of {phase['tokens']} tokens, {phase['texts']} texts classified"
    if phase["second_process_s"]:
        start, end = phase["second_process_s"]
        by = phase["by_second_process"]
        yield "second process", f"{by} requests, from {seconds(start)} to {seconds(end)}"
    done = [f"{told['done']} {name}" for name, told in phase["operations"].items() if told["done"]]
    yield "operations", ", ".join(done)
    refused = [f"{told['refused']} {name}" for name, told in phase["operations"].items() if told["refused"]]
    yield "refused as they must be", ", ".join(refused)
    yield "the storm itself was late by", f"{seconds(phase['lag_s'])} at most"
    if pause["longest_s"] is not None:
        parts = (
            f"longest {seconds(pause['longest_s'])}",
            f"during a change {seconds(pause['longest_during_a_change_s'])}",
            f"p99 of steps {seconds(pause['step_p99_s'])}",
            f"under way then: {', '.join(pause['then']) or 'nothing'}",
        )
        yield "pauses of streams", ", ".join(parts)
    if memory["ratio"] is not None:
        sizes = ", ".join(f"{name} {memory[f'{name}_bytes'] / 2**20:.0f} MiB" for name in ("begin", "warm", "end"))
        yield "resident", sizes
        since = ", ".join(f"{count:.0f} {name}" for name, count in memory["since_begin"].items())
        yield "tiers", f"{since}; at the end {json.dumps(memory['adapters'])}"


def render_storm(report: Mapping[str, Any]) -> str:
    """The page."""
    return whole_page(str(report["title"]), "\n".join(_sections(report)))


def _sections(report: Mapping[str, Any]) -> Iterator[str]:
    yield f"<p><code>{escape(report['command'])}</code><br>{escape(report['started'])}</p>"
    for phase in report["phases"]:
        yield f"<h2>{escape(phase['base'])}</h2>"
        yield table(COLUMNS, [cells(row) for row in phase["rows"]])
        if phase["problems"]:
            items = "".join(f"<li>{escape(problem)}</li>" for problem in phase["problems"])
            yield f'<h3>What went wrong</h3><ul class="bad">{items}</ul>'
        yield table(("", ""), list(facts(phase)))
        line = phase["time_line"]
        drawn = [
            draw_lines(text, line["edges_s"], {text: line[name]}, "1/s")
            for name, text in LINES.items()
            if any(line[name])
        ]
        yield plots(draw_marks("operations", line["edges_s"][-1], line["operations"]), *drawn)
    yield f"<h2>Machine</h2><pre>{escape(json.dumps(report['machine'], indent=2, ensure_ascii=False))}</pre>"

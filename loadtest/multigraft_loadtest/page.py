"""A report as one HTML page that needs nothing else: no host, no library, no script."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from multigraft_loadtest.plots import draw_bars, draw_histogram, draw_lines
from multigraft_loadtest.show import NAMES, seconds

STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --soft: #6b7785; --paper: #fff; --rule: #dde3ea;
  --one: #2a6fdb; --two: #d9662b; --three: #2b8a5b; --four: #8a4fbf; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf1; --soft: #98a4b3; --paper: #12171d; --rule: #2c3642;
  --one: #6ea8ff; --two: #f0965f; --three: #63c795; --four: #c39bee; --bad: #ff8a80; } }
body { margin: 2rem auto; max-width: 62rem; padding: 0 1rem; background: var(--paper); color: var(--ink);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; margin: .5rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem .2rem 0; text-align: right; border-bottom: 1px solid var(--rule); }
th:first-child, td:first-child { text-align: left; }
th { color: var(--soft); font-weight: 500; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(26rem, 1fr)); gap: 1rem 1.5rem; }
figure { margin: 0; } figcaption { color: var(--soft); }
svg { width: 100%; height: auto; } svg text { fill: var(--soft); font-size: 13px; }
.bar { fill: var(--one); } .grid { stroke: var(--rule); } .mark { stroke: var(--two); stroke-dasharray: 4 3; }
.line { fill: none; stroke-width: 2; } path.line0 { stroke: var(--one); } path.line1 { stroke: var(--two); }
.dot.line0, svg text.line0 { fill: var(--one); } .dot.line1, svg text.line1 { fill: var(--two); }
path.line2 { stroke: var(--three); } .dot.line2, svg text.line2 { fill: var(--three); }
path.line3 { stroke: var(--four); } .dot.line3, svg text.line3 { fill: var(--four); }
.bad { color: var(--bad); } pre { overflow-x: auto; font-size: 12px; }
"""
MAX_BARS = 64


def render(report: Mapping[str, Any]) -> str:
    """The page of a report."""
    return whole_page(str(report["title"]), "\n".join(_sections(report)))


def whole_page(title: str, body: str) -> str:
    """A page of this title around what a report says."""
    title = escape(title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n{body}\n</body></html>\n"
    )


def _sections(report: Mapping[str, Any]) -> Iterator[str]:
    yield f"<p><code>{escape(report['command'])}</code><br>{escape(report['started'])}</p>"
    yield _totals(report)
    if report["problems"]:
        items = "".join(f"<li>{escape(problem)}</li>" for problem in report["problems"])
        yield f'<h2>What went wrong</h2><ul class="bad">{items}</ul>'
    for kind, told in report["kinds"].items():
        yield f"<h2>Latency of {escape(kind)}</h2>{_latency_table(told)}{_histograms(told)}"
    yield f"<h2>Over time</h2>{_time_lines(report)}"
    yield f"<h2>Tasks</h2>{_bars(report)}{_task_table(report)}"
    for name in ("workload", "machine"):
        yield f"<h2>{name.title()}</h2><pre>{escape(json.dumps(report[name], indent=2, ensure_ascii=False))}</pre>"


def _totals(report: Mapping[str, Any]) -> str:
    requests, rates, goodput = report["requests"], report["throughput"], report["goodput"]
    rows = [(fate, str(requests[fate])) for fate in ("asked", "right", "wrong", "failed", "lost")]
    rows += [(f"answers with {code}", str(count)) for code, count in report["codes"].items()]
    rows.append(("mismatched digests", str(report["mismatched"]) if report["digests_checked"] else "not told"))
    rows += [
        (name.replace("_per_s", "/s").replace("_", " "), f"{rate:.1f}") for name, rate in rates.items() if rate
    ]
    if goodput:
        limits = ", ".join(f"{name} {limit:g} s" for name, limit in goodput["limits"].items())
        rows.append((f"goodput within {limits}", f"{goodput['requests_per_s']:.2f}/s, {goodput['share']:.1%}"))
    rows.append(("Jain's index over tasks", "-" if report["jain"] is None else f"{report['jain']:.3f}"))
    rows.append(("elapsed", seconds(report["elapsed_s"])))
    return table(("", ""), rows)


def _latency_table(told: Mapping[str, Any]) -> str:
    columns = ("count", "mean", "p50", "p90", "p95", "p99", "max")
    rows = [
        (NAMES[name], f"{figures['count']:.0f}", *(seconds(figures[column]) for column in columns[1:]))
        for name, figures in told["latency_s"].items()
    ]
    return table(("", *columns), rows)


def _histograms(told: Mapping[str, Any]) -> str:
    drawn = [
        draw_histogram(
            NAMES[name],
            found["edges"],
            found["counts"],
            {at: told["latency_s"][name][at] for at in ("p50", "p95")},
        )
        for name, found in told["histograms"].items()
        if found
    ]
    return plots(*drawn)


def _time_lines(report: Mapping[str, Any]) -> str:
    line = report["time_line"]
    names = {"output_tokens_per_s": "output tokens", "texts_per_s": "texts", "requests_per_s": "requests"}
    drawn = [
        draw_lines(f"{text} per second", line["edges_s"], {text: line[name]}, "1/s")
        for name, text in names.items()
        if any(line[name])
    ]
    return plots(
        *drawn, draw_lines("end to end, by the time of the answer", line["edges_s"], line["total_s"], "s")
    )


def _bars(report: Mapping[str, Any]) -> str:
    tasks = dict(list(report["tasks"].items())[:MAX_BARS])
    rates = {task: told["throughput"] for task, told in tasks.items()}
    drawn = [
        draw_bars(text, {task: rate[name] for task, rate in rates.items()}, "1/s")
        for name, text in (
            ("output_tokens_per_s", "output tokens per second"),
            ("texts_per_s", "texts per second"),
        )
        if any(rate[name] for rate in rates.values())
    ]
    p95 = {task: told["total_s"]["p95"] for task, told in tasks.items() if told["total_s"]}
    return plots(*drawn, draw_bars("end to end, p95", p95, "s"))


def _task_table(report: Mapping[str, Any]) -> str:
    rows = []
    for task, told in report["tasks"].items():
        total, requests = told["total_s"] or {}, told["requests"]
        counts = [f"{told['share']:.2%}", *(str(requests[name]) for name in ("right", "wrong", "failed", "lost"))]
        rows.append((task, *counts, *(seconds(total.get(at)) for at in ("p50", "p90", "p95", "p99"))))
    return table(("task", "share", "right", "wrong", "failed", "lost", "p50", "p90", "p95", "p99"), rows)


def plots(*drawn: str) -> str:
    """Figures side by side."""
    return f'<div class="plots">{"".join(drawn)}</div>'


def table(columns: tuple[str, ...], rows: list[Any]) -> str:
    """Rows of text below the names of their columns."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

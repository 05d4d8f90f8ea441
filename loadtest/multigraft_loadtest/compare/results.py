"""What a comparison has measured so far: figures by measurement and round, and what went wrong."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from multigraft_loadtest.client import Client
from multigraft_loadtest.compare.rows import ONE, Figures
from multigraft_loadtest.compare.sides import Side, Sides
from multigraft_loadtest.report import is_clean, summarise
from multigraft_loadtest.workload import Workload

KEPT: Mapping[str, Callable[[Mapping[str, Any]], float | None]] = {
    "requests_per_s": lambda report: report["throughput"]["requests_per_s"],
    "output_tokens_per_s": lambda report: report["throughput"]["output_tokens_per_s"],
    "texts_per_s": lambda report: report["throughput"]["texts_per_s"],
    "prompt_tokens": lambda report: _mean(report, "prompt_tokens"),
    "first_token_p50_s": lambda report: _latency(report, "first_token", "p50"),
    "per_token_p50_s": lambda report: _latency(report, "per_token", "p50"),
    "total_p50_s": lambda report: _latency(report, "total", "p50"),
    "total_p95_s": lambda report: _latency(report, "total", "p95"),
}
"""What is kept of each run's report."""

OURS = "multigraft"


@dataclass(slots=True)
class Results:
    """Gathers figures. `notes` say of a row why it was not measured, or what it is made of.

    `wrong` are our own runs in which an answer was wrong, lost or failed.
    """

    rounds: dict[str, list[Mapping[str, float]]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False, markup=False))

    def say(self, text: str) -> None:
        """Tell on the terminal what is going on."""
        self.console.print(text)

    def add(self, name: str, **figures: float) -> None:
        """One round's figures of a measurement."""
        self.rounds.setdefault(name, []).append(figures)

    def median(self, name: str, figure: str) -> float | None:
        """Of the rounds so far; None when there are none."""
        values = [figures[figure] for figures in self.rounds.get(name, []) if figure in figures]
        return statistics.median(values) if values else None

    def figures(self) -> Figures:
        """The medians of everything."""
        names = {
            name: sorted({key for figures in rounds for key in figures}) for name, rounds in self.rounds.items()
        }
        found: dict[str, dict[str, float]] = {ONE: {"ratio": 1.0}}
        for name, keys in names.items():
            medians = {key: self.median(name, key) for key in keys}
            found[name] = {key: value for key, value in medians.items() if value is not None}
        return found

    def run(self, name: str, side: Side, sides: Sides, workload: Workload) -> dict[str, Any]:
        """Measure a workload on a side while the others are paused; its report.

        A peer's run that is not clean is no measurement; one of ours is, and is noted as wrong.
        """
        with sides.turn(side.child):
            report = summarise(Client(side.url, side.target).run(workload), {})
        clean = is_clean(report)
        kept = {key: value for key, get in KEPT.items() if (value := get(report)) is not None}
        rate = kept["output_tokens_per_s"] or kept["texts_per_s"]
        self.say(
            f"  {name}: {rate:.1f}/s, p50 {kept.get('total_p50_s', 0):.2f} s" + ("" if clean else ", NOT CLEAN")
        )
        if not clean:
            text = f"{name}: {report['codes']} {report['problems'][:1]}"
            self.notes[name] = text
            self.say(f"  {text}")
            if side.target.name == OURS:
                self.wrong.append(text)
        if clean or side.target.name == OURS:
            self.add(name, **kept)
        return report


def _latency(report: Mapping[str, Any], name: str, percent: str) -> float | None:
    for told in report["kinds"].values():
        if name in told["latency_s"]:
            value: float = told["latency_s"][name][percent]
            return value
    return None


def _mean(report: Mapping[str, Any], name: str) -> float | None:
    counts = [told for told in report["kinds"].values() if told["requests"]]
    requests = sum(told["requests"] for told in counts)
    return sum(told[name] for told in counts) / requests if requests else None

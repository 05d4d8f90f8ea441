"""`loadtest merge`: from its options to its report, its tables and its plot."""

from __future__ import annotations

import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Group
from rich.table import Table

from multigraft_loadtest.figures import percentile
from multigraft_loadtest.goals import COLUMNS, cells, goal
from multigraft_loadtest.machine import describe_machine
from multigraft_loadtest.many.measured import Measured
from multigraft_loadtest.merge.measure import BURSTS, MERGING, SHARES, Base, Sizes, measure
from multigraft_loadtest.page import STYLE
from multigraft_loadtest.plots import draw_curves
from multigraft_loadtest.show import titled

BASES = ("smollm2", "minilm")
PLACES = (*(f"{share:g}" for share in SHARES), BURSTS)
STATIC_RATIO = 0.97
"""Of the better of never and always, at least."""

LEAST_GAIN = {"0.95": 1.10, "0.8": 1.0}
MOST_PAUSE_STEPS, MOST_PAUSE_S = 3.0, 0.1
LEAST_COLD = 20
"""With fewer answers of cold tasks there is no 95th percentile to speak of."""


def merge(options: Mapping[str, Any]) -> dict[str, Any]:
    """Measure each base; the report. Raises LoadTestError."""
    sizes = Sizes.usual(options["rounds"], options["switches"], is_quick=options["quick"])
    measured = Measured(options["data_dir"], options["serve_options"], options["seed"])
    started = datetime.now(UTC)
    bases = [measure(name, sizes, measured) for name in options["bases"] or BASES]
    return {
        "title": "multigraft loadtest merge",
        "command": shlex.join(["multigraft", *sys.argv[1:]]),
        "started": started.isoformat(timespec="seconds"),
        "rounds": sizes.rounds,
        "machine": describe_machine(),
        "bases": {base.name: _told(base) for base in bases},
        "rows": [row for base in bases for row in rows(base)],
        "wrong": measured.wrong,
    }


def _told(base: Base) -> dict[str, Any]:
    """One base's figures as plain values; `ratios` are to never merging, medians of the rounds' own ratios."""
    ratios = {
        place: {side: ratio(base, place, side) for side in ("base", *MERGING) if base.rates[place].get(side)}
        for place in PLACES
    }
    return {
        "unit": base.unit,
        "rates": {place: dict(base.rates[place]) for place in PLACES},
        "ratios": ratios,
        "cold_s": {
            side: {"count": len(times), "p95": percentile(times, 95)} for side, times in base.cold_s.items()
        },
        "switches": base.switches,
        "switch_s": base.switch_s,
        "is_same": base.is_same,
        "engine": base.engine,
    }


def ratio(base: Base, place: str, side: Any, to: Any = "never") -> float | None:
    """The median over the rounds of one side's throughput to another one's in the same round."""
    pairs = zip(base.rates[place].get(side, ()), base.rates[place].get(to, ()), strict=False)
    found = [ours / theirs for ours, theirs in pairs if theirs]
    return statistics.median(found) if found else None


def rows(base: Base) -> list[dict[str, Any]]:
    """The targets of one base with what was reached."""
    found = [
        goal(
            f"{base.name}, share 1.0: merged to the bare base",
            ratio(base, "1", "always", "base"),
            0.97,
            at_least=True,
        )
    ]
    for place, least in LEAST_GAIN.items():
        found.append(_gain(base, place, least))
    for place in ("0.2", "0.5", BURSTS):
        found.append(
            goal(
                f"{base.name}, {_shown(place)}: auto to the better",
                _to_better(base, place),
                STATIC_RATIO,
                at_least=True,
            )
        )
    never, auto = (base.cold_s.get(side, []) for side in ("never", "auto"))
    p95 = percentile(auto, 95) / percentile(never, 95) if min(len(never), len(auto)) >= LEAST_COLD else None
    found.append(goal(f"{base.name}: p95 of the cold tasks, auto to never", p95, 1.1))
    return [*found, *_pause(base), *_switches(base)]


def _gain(base: Base, place: str, least: float) -> dict[str, Any]:
    """`auto` against `never`; or, where that is less, against the better of the static choices."""
    gain, better = ratio(base, place, "auto"), _to_better(base, place)
    row = goal(f"{base.name}, {_shown(place)}: auto to never", gain, least, at_least=True)
    if row["verdict"] == "MISSED" and better is not None and better >= STATIC_RATIO:
        row["verdict"] = f"met: {better:.3f} of the better"
    return row


def _to_better(base: Base, place: str) -> float | None:
    ratios = [ratio(base, place, "auto", to) for to in ("never", "always")]
    known = [one for one in ratios if one is not None]
    return min(known) if len(known) == len(ratios) else None


def _pause(base: Base) -> list[dict[str, Any]]:
    pause = base.engine.get("longest_pause") or {}
    seconds, steps = pause.get("seconds"), pause.get("steps")
    if seconds is None or steps is None:
        return [goal(f"{base.name}: longest pause of a switch, to 3 steps or 100 ms", None, 1.0)]
    worst, what = (
        min(steps / MOST_PAUSE_STEPS, seconds / MOST_PAUSE_S),
        f"{1000 * seconds:.0f} ms, {steps:.1f} steps",
    )
    return [goal(f"{base.name}: longest pause of a switch ({what}), to 3 steps or 100 ms", worst, 1.0)]


def _switches(base: Base) -> list[dict[str, Any]]:
    if base.is_same is None:
        return []
    what = (
        f"{base.name}: answers that are other ones after {base.switches} switches of {1000 * base.switch_s:.0f} ms"
    )
    return [goal(what, 0.0 if base.is_same else 1.0, 0.0)]


def _shown(place: str) -> str:
    return place if place == BURSTS else f"share {place}"


def merge_tables(report: Mapping[str, Any]) -> Group:
    """The targets, and each base's throughput by share and side."""
    targets = titled(f"merging, medians of {report['rounds']} rounds", *COLUMNS)
    for row in report["rows"]:
        targets.add_row(*cells(row))
    return Group(targets, *(_rates(name, told) for name, told in report["bases"].items()))


def _rates(name: str, told: Mapping[str, Any]) -> Table:
    table = titled(f"{name}, {told['unit']}, and to never", "share", "base", *MERGING)
    for place in PLACES:
        shown = []
        for side in ("base", *MERGING):
            rates, to_never = told["rates"][place].get(side, ()), told["ratios"][place].get(side)
            shown.append(f"{statistics.median(rates):.0f} ({to_never:.3f})" if rates and to_never else "")
        table.add_row(place, *shown)
    return table


def draw(report: Mapping[str, Any]) -> str:
    """The plot of gain over share, of all bases, as one SVG that needs nothing else."""
    series: dict[str, Sequence[float | None]] = {}
    for name, told in report["bases"].items():
        for side in ("always", "auto"):
            series[f"{name}, {side}"] = [told["ratios"][place].get(side) for place in PLACES]
    figure = draw_curves("throughput by the hot task's share, to never merging", PLACES, series, "ratio")
    start, end = figure.index("<svg"), figure.index("</svg>")
    inside = figure[start:end].replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    head, _, rest = inside.partition(">")
    return f"{head}><style>{STYLE}</style>{rest}</svg>\n"

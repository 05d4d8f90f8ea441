"""Goals: a figure, what it is to be at least or at most, and whether it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = ("what", "figure", "target", "")


def goal(
    what: str, figure: float | None, target: float | None = None, *, at_least: bool = False
) -> dict[str, Any]:
    """A row of a report. One without a target is only told; a figure of None was not measured."""
    if figure is None:
        verdict = "not measured"
    elif target is None:
        verdict = "told"
    else:
        verdict = "met" if (figure >= target if at_least else figure <= target) else "MISSED"
    return {"what": what, "figure": figure, "target": target, "at_least": at_least, "verdict": verdict}


def cells(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """A row as text, by `COLUMNS`."""
    sign = "≥" if row["at_least"] else "≤"
    figure = "-" if row["figure"] is None else f"{row['figure']:.6g}"
    target = "" if row["target"] is None else f"{sign} {row['target']:g}"
    return row["what"], figure, target, row["verdict"]


def has_missed(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a goal that was measured is missed."""
    return any(row["verdict"] == "MISSED" for row in rows)

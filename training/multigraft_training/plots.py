"""Plots of runs and searches, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

SIZE = (6.4, 4.0)
DOTS_PER_INCH = 100


class Tried(Protocol):
    """A trial as it is drawn."""

    @property
    def number(self) -> int: ...

    @property
    def state(self) -> str: ...

    @property
    def value(self) -> float | None: ...


def draw_trials(file: Path, name: str, trials: Sequence[Tried], *, minimize: bool) -> None:
    """Each trial's value, and the best so far."""
    figure, axes = _figure("trial", name)
    choose = min if minimize else max
    for state, marker in (("complete", "o"), ("pruned", "x")):
        shown = [(one.number, one.value) for one in trials if one.state == state and one.value is not None]
        if shown:
            axes.scatter(*zip(*shown, strict=True), marker=marker, label=state)
    complete = [(one.number, one.value) for one in trials if one.state == "complete" and one.value is not None]
    best = [choose(value for _, value in complete[: index + 1]) for index in range(len(complete))]
    axes.step([number for number, _ in complete], best, where="post", label="best so far")
    axes.legend()
    _write(figure, file)


def _figure(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return figure, axes


def _write(figure: Figure, file: Path) -> None:
    figure.savefig(file, format="png", metadata={"Software": None})

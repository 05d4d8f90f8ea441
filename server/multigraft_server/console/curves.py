"""What a training job measured, as curves to draw: plain numbers, in the units of an SVG's view box."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 400, 210
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 30
MAX_POINTS = 300
MAX_TICKS = 5
MAX_VALUE = 1e30
"""More than any loss that can still be trained from."""
TRAIN_LOSS, VALID = "train_loss", "valid_"
LOSS = "loss"

Points = list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis: where it is, and what it says."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: `points` as SVG's polyline has them. `kind` is `train` or `valid`; `last` its newest value."""

    kind: str
    name: str
    points: str
    end: tuple[float, float]
    last: float
    step: int


@dataclass(frozen=True, slots=True)
class Chart:
    """Curves over the same steps and values."""

    title: str
    lines: tuple[Line, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM

    @property
    def summary(self) -> str:
        """The chart in a sentence, for who does not see it."""
        told = (f"{line.name} {line.last:.4g} at step {line.step}" for line in self.lines)
        return f"{self.title} by step: {', '.join(told)}"


def charts_of(measured: Iterable[Mapping[str, Any]]) -> list[Chart]:
    """The charts of what a job's events of kind `metrics` say, oldest first: the losses, then each other metric of
    the validation split. Of a step that was trained again, after a checkpoint, the last measurement counts."""
    series = _series(measured)
    if not series:
        return []
    last_step = max(step for points in series.values() for step, _ in points)
    losses = {name: series.pop(name) for name in (TRAIN_LOSS, VALID + LOSS) if name in series}
    charts = [_chart("Loss", losses, last_step)] if losses else []
    titles = {name: name.removeprefix(VALID).replace("_", " ").capitalize() for name in series}
    return charts + [_chart(titles[name], {name: points}, last_step) for name, points in series.items()]


def _series(measured: Iterable[Mapping[str, Any]]) -> dict[str, Points]:
    """Each curve's points by step. Where steps tell their training loss, the mean of an epoch's is left out."""
    found: dict[str, dict[int, float]] = {}
    means: dict[int, float] = {}
    for data in measured:
        step = data.get("step")
        told = {name: float(value) for name, value in data.items() if _is_drawn(name, value)}
        if not isinstance(step, int):
            continue
        if TRAIN_LOSS in told and any(name.startswith(VALID) for name in data):
            means[step] = told.pop(TRAIN_LOSS)
        for name, value in told.items():
            found.setdefault(name, {})[step] = value
    if means:
        found.setdefault(TRAIN_LOSS, means)
    return {name: sorted(points.items()) for name, points in found.items()}


def _is_drawn(name: str, value: object) -> bool:
    is_number = isinstance(value, int | float) and abs(value) <= MAX_VALUE  # false of NaN, too
    return is_number and (name == TRAIN_LOSS or name.startswith(VALID))


def _chart(title: str, series: Mapping[str, Points], last_step: int) -> Chart:
    values = [value for points in series.values() for _, value in points]
    ticks = _ticks(min(values), max(values))
    low, high = min(ticks[0], *values), max(ticks[-1], *values)

    def x(step: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * step / max(1, last_step), 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low), 1)

    lines = []
    for name, points in series.items():
        placed = [(x(step), y(value)) for step, value in _thinned(points)]
        kind = "train" if name == TRAIN_LOSS else "valid"
        told = {"train": "training", "valid": "validation"}[kind]
        written = " ".join(f"{across:g},{up:g}" for across, up in placed)
        lines.append(Line(kind, told, written, placed[-1], points[-1][1], points[-1][0]))
    across = tuple(Tick(x(step), f"{step:g}") for step in _ticks(0, max(1, last_step)) if 0 <= step <= last_step)
    return Chart(title, tuple(lines), across, tuple(Tick(y(value), f"{value:g}") for value in ticks))


def _thinned(points: Points) -> Points:
    """At most MAX_POINTS of them, the last one included."""
    every = math.ceil(len(points) / MAX_POINTS)
    return points[(len(points) - 1) % every :: every]


def _ticks(low: float, high: float) -> Sequence[float]:
    """Round values around a range, at least two."""
    # Values that differ by less than their digits tell are drawn as one.
    spread = max(high - low, max(abs(high), abs(low)) * 1e-6) or 1.0
    rough = spread / (MAX_TICKS - 1)
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * index for index in range(first, max(last, first + 1) + 1)]

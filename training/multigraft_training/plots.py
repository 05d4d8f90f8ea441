"""Plots of runs and searches, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

SIZE = (6.4, 4.0)
DOTS_PER_INCH = 100


BINS = 10
"""Of confidence."""

MOST_NUMBERS = 20
"""Above so many classes a confusion matrix has colours only."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a model said of a split: probabilities (rows, labels), and the true class of each row."""

    labels: Sequence[str]
    probabilities: NDArray[np.float32]
    truth: NDArray[np.int64]

    @property
    def predicted(self) -> NDArray[np.int64]:
        found: NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return found


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


def draw_loss(file: Path, log: Sequence[Mapping[str, Any]]) -> None:
    """The loss of every step, the mean of every epoch, and that of the validation split."""
    figure, axes = _figure("step", "loss")
    steps = [line for line in log if line["event"] == "step"]
    epochs = [line for line in log if line["event"] == "epoch"]
    axes.plot(_of(steps, "step"), _of(steps, "loss"), linewidth=0.8, alpha=0.5, label="steps")
    axes.plot(_of(epochs, "step"), _of(epochs, "loss"), marker="o", label="epochs")
    if all("loss" in line["validation"] for line in epochs):
        axes.plot(
            _of(epochs, "step"), [line["validation"]["loss"] for line in epochs], marker="o", label="validation"
        )
    axes.legend()
    _write(figure, file)


def draw_metrics(file: Path, log: Sequence[Mapping[str, Any]]) -> None:
    """The validation metrics of every epoch, but for the loss; the best epoch of the last stage is marked."""
    figure, axes = _figure("epoch", "validation")
    epochs = [line for line in log if line["event"] == "epoch"]
    epochs = [line for line in epochs if line["stage"] == epochs[-1]["stage"]]
    names = [name for name in epochs[-1]["validation"] if name != "loss"] or ["loss"]
    for name in names:
        axes.plot(_of(epochs, "epoch"), [line["validation"][name] for line in epochs], marker="o", label=name)
    best = [line["epoch"] for line in epochs if line["is_best"]][-1]
    axes.axvline(best, linestyle=":", color="grey", label=f"best epoch {best}")
    axes.legend()
    _write(figure, file)


def draw_confusion(file: Path, seen: Predictions) -> None:
    """How many rows of each class were given each class."""
    counts = confusion_matrix(seen.truth, seen.predicted, labels=range(len(seen.labels)))
    figure, axes = _figure("predicted", "true")
    axes.grid(visible=False)
    axes.imshow(counts, cmap="Blues")
    names = [label if len(label) <= 16 else f"{label[:15]}…" for label in seen.labels]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    if len(names) <= MOST_NUMBERS:
        for (row, column), count in np.ndenumerate(counts):
            color = "white" if count > counts.max() / 2 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=color)
    _write(figure, file)


def draw_calibration(file: Path, seen: Predictions) -> None:
    """Of the rows that were given a class with such a confidence, the share that was right; and the expected
    calibration error: the mean distance of both, weighed by the rows (Guo et al. 2017, 1706.04599)."""
    confidence = seen.probabilities.max(axis=1)
    right = seen.predicted == seen.truth
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    filled = [number for number in range(BINS) if (bins == number).any()]
    means = [float(confidence[bins == number].mean()) for number in filled]
    shares = [float(right[bins == number].mean()) for number in filled]
    weights = [float((bins == number).mean()) for number in filled]
    error = sum(w * abs(m - s) for w, m, s in zip(weights, means, shares, strict=True))
    figure, axes = _figure("confidence", "share that was right")
    axes.plot([0, 1], [0, 1], linestyle=":", color="grey")
    axes.plot(means, shares, marker="o", label=f"calibration error {error:.3f}")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.legend()
    _write(figure, file)


def _of(lines: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [line[name] for line in lines]

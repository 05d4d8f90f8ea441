"""From what a job measured to the curves of its page."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from multigraft_server.console.curves import MAX_POINTS, Chart, charts_of

MEASURED: list[dict[str, Any]] = [
    {"step": 1, "epoch": 1, "train_loss": 2.0},
    {"step": 4, "epoch": 1, "train_loss": 1.0},
    {"step": 5, "epoch": 1, "train_loss": 1.5, "valid_loss": 1.25, "valid_accuracy": 0.5},
    {"step": 8, "epoch": 2, "train_loss": 0.5},
    {"step": 10, "epoch": 2, "train_loss": 0.8, "valid_loss": 0.75, "valid_accuracy": 0.75},
]


def placed(chart: Chart, index: int = 0) -> list[tuple[float, float]]:
    """A line's points as numbers."""
    pairs = [point.split(",") for point in chart.lines[index].points.split()]
    return [(float(across), float(up)) for across, up in pairs]


def test_losses_are_in_one_chart_and_every_other_metric_has_its_own() -> None:
    loss, accuracy = charts_of(MEASURED)
    assert (loss.title, [line.kind for line in loss.lines]) == ("Loss", ["train", "valid"])
    assert [line.last for line in loss.lines] == [0.5, 0.75], "an epoch's mean is no step's loss"
    assert accuracy.title == "Accuracy" and [line.last for line in accuracy.lines] == [0.75]
    assert loss.summary == "Loss by step: training 0.5 at step 8, validation 0.75 at step 10"
    across, up = zip(*placed(loss), strict=True)
    assert list(across) == sorted(across) and list(up) == sorted(up), "it falls: down is more in an SVG"


def test_a_step_that_was_trained_again_is_drawn_once() -> None:
    again = [*MEASURED, {"step": 8, "epoch": 2, "train_loss": 0.25}]
    loss = charts_of(again)[0]
    assert len(placed(loss)) == 3 and loss.lines[0].last == 0.25


def test_a_job_that_told_of_no_step_has_its_epochs_losses() -> None:
    epochs = [data for data in MEASURED if "valid_loss" in data]
    assert [line.last for line in charts_of(epochs)[0].lines] == [0.8, 0.75]


def test_nothing_measured_is_no_chart() -> None:
    assert charts_of([]) == []
    assert charts_of([{"step": 1, "train_loss": math.nan}, {"train_loss": 1.0}, {"step": "1", "valid_x": 1}]) == []


numbers = st.floats(allow_nan=True, allow_infinity=True) | st.integers(-(10**9), 10**9) | st.text() | st.none()


@given(
    st.lists(
        st.fixed_dictionaries(
            {"step": st.integers(0, 10**7)}, optional={"train_loss": numbers, "valid_f1": numbers}
        )
    )
)
def test_whatever_was_measured_is_drawn_within_the_chart(measured: list[dict[str, Any]]) -> None:
    for chart in charts_of(measured):
        assert chart.lines and chart.up and chart.across
        for index in range(len(chart.lines)):
            points = placed(chart, index)
            assert 1 <= len(points) <= MAX_POINTS
            assert all(chart.left <= across <= chart.right for across, _ in points)
            assert all(chart.top <= up <= chart.bottom for _, up in points)


def test_a_long_job_is_drawn_with_few_points_and_its_end() -> None:
    loss = charts_of([{"step": step, "train_loss": 1 / step} for step in range(1, 10_001)])[0]
    assert len(placed(loss)) <= MAX_POINTS and placed(loss)[-1] == loss.lines[0].end
    assert loss.lines[0].step == 10_000

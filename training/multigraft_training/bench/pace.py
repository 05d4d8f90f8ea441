"""How fast training steps are, with evaluations and checkpoints left out."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from transformers import TrainerCallback

from multigraft_training.progress import Epoch
from multigraft_training.report import Report


class Pace:
    """The CPU seconds of all steps together. A step that follows an evaluation counts as the mean of the others:
    from outside the two cannot be told apart."""

    def __init__(self) -> None:
        self._spent = 0.0
        self._known = self._all = 0
        self._last: float | None = None

    def step(self) -> None:
        """A step has ended."""
        now = time.process_time()
        if self._last is not None:
            self._spent += now - self._last
            self._known += 1
        self._all += 1
        self._last = now

    def interrupt(self) -> None:
        """Something else than a step comes now."""
        self._last = None

    @property
    def cpu_seconds(self) -> float | None:
        """Of all steps; None where there were too few."""
        return self._spent / self._known * self._all if self._known else None


class PacedReport(Report):
    """A report that measures the pace of our trainer."""

    def __init__(self, console: Console, pace: Pace) -> None:
        super().__init__(console)
        self._pace = pace

    def step(self) -> None:
        super().step()
        self._pace.step()

    def epoch(self, epoch: Epoch, num_epochs: int) -> None:
        super().epoch(epoch, num_epochs)
        self._pace.interrupt()


class PaceCallback(TrainerCallback):
    """The same of transformers' Trainer."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace

    def on_step_end(self, *arguments: Any, **more: Any) -> None:
        self._pace.step()

    def on_epoch_end(self, *arguments: Any, **more: Any) -> None:
        self._pace.interrupt()

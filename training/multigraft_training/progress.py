"""How far a training is, and what it came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one epoch came to: the mean training loss per target, and the validation metrics."""

    number: int
    loss: float
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Fit:
    """A finished training; the model holds the best epoch's adapter."""

    epochs: tuple[Epoch, ...]
    best: Epoch
    num_steps: int


@dataclass(slots=True)
class Progress:
    """What a training must know to go on, beside parameters, optimiser and random states.

    `num_steps` counts the steps of the run; all else is of the present stage: `position` counts those done of the
    present epoch, `summed` their losses, `stage_steps` those of all its epochs; `best_parameters` are those of the
    epoch numbered `best`.
    """

    stage: int = 0
    stage_steps: int = 0
    epochs: list[Epoch] = field(default_factory=list)
    position: int = 0
    summed: float = 0.0
    num_steps: int = 0
    best: int | None = None
    best_parameters: list[Tensor] = field(default_factory=list)

    _PLAIN: ClassVar = ("stage", "stage_steps", "position", "summed", "num_steps", "best")

    @property
    def best_epoch(self) -> Epoch | None:
        return None if self.best is None else self.epochs[self.best - 1]

    @property
    def epochs_since_best(self) -> int:
        """Epochs that brought nothing better."""
        return 0 if self.best is None else len(self.epochs) - self.best

    def begin_stage(self, number: int) -> None:
        """Begin a stage; what was of the one before is forgotten."""
        self.stage, self.stage_steps, self.epochs, self.best, self.best_parameters = number, 0, [], None, []

    def count_step(self, loss: float) -> None:
        """Note a step and its summed loss."""
        self.position += 1
        self.num_steps += 1
        self.stage_steps += 1
        self.summed += loss

    def close_epoch(self, epoch: Epoch) -> None:
        """Note an epoch and begin the next."""
        self.epochs.append(epoch)
        self.position, self.summed = 0, 0.0

    def state(self) -> dict[str, Any]:
        """Plain values and tensors, from which `of_state` makes the same progress."""
        plain = {name: getattr(self, name) for name in self._PLAIN}
        epochs = [asdict(epoch) for epoch in self.epochs]
        return {**plain, "epochs": epochs, "best_parameters": self.best_parameters}

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> Progress:
        return cls(**{**state, "epochs": [Epoch(**epoch) for epoch in state["epochs"]]})

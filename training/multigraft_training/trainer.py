"""The training loop: steps of micro-batches, an evaluation each epoch, the best adapter kept."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from multigraft_adapters.errors import TrainingFailedError
from multigraft_training.batches import Batch, Encoded, Step, make_batch, plan_epoch, plan_evaluation
from multigraft_training.recipe import TrainingPart
from multigraft_training.report import Report
from multigraft_training.tasks import TrainingTask

HEAD = "modules_to_save"
"""What PEFT calls the modules that are trained as they are: a task's head."""


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


class Trainer:
    """Fits the trainable parameters of one PEFT model.

    The same model, examples and settings give the same parameters on a CPU.
    """

    def __init__(
        self, model: Any, task: TrainingTask, settings: TrainingPart, *, pad_id: int, dtype: torch.dtype
    ) -> None:
        self._model = model
        self._task = task
        self._settings = settings
        self._pad_id = pad_id
        self._dtype = dtype
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def fit(self, train: Sequence[Encoded], validation: Sequence[Encoded], report: Report) -> Fit:
        """Train until the last epoch or until `early_stopping` epochs brought nothing better.

        Raises TrainingFailedError when the loss is no longer a number.
        """
        settings = self._settings
        plans = [self._plan(train, epoch) for epoch in range(settings.epochs)]
        optimizer = AdamW(self._groups(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
        schedule = _schedule(optimizer, sum(len(plan) for plan in plans), settings.warmup)
        epochs: list[Epoch] = []
        best, best_parameters = None, None
        with report.training(sum(len(plan) for plan in plans)):
            for number, plan in enumerate(plans, start=1):
                self._model.train()
                summed = 0.0
                for step in plan:
                    summed += self._step(train, step, optimizer)
                    schedule.step()
                    report.step()
                loss = summed / sum(example.num_targets for example in train)
                epoch = Epoch(number, loss, self.evaluate(validation))
                epochs.append(epoch)
                report.epoch(number, settings.epochs, loss, epoch.metrics)
                if best is None or self._task.score(epoch.metrics) > self._task.score(best.metrics):
                    best, best_parameters = epoch, self._snapshot()
                elif settings.early_stopping and number - best.number >= settings.early_stopping:
                    report.note(f"stopped: no epoch after {best.number} was better")
                    break
        assert best is not None and best_parameters is not None
        self._restore(best_parameters)
        return Fit(tuple(epochs), best, sum(len(plan) for plan in plans[: len(epochs)]))

    def evaluate(self, examples: Sequence[Encoded]) -> dict[str, float]:
        """The task's metrics on a split."""
        self._model.eval()
        plan = plan_evaluation([example.num_tokens for example in examples], self._settings.micro_batch_tokens)
        with torch.inference_mode(), self._autocast():
            return self._task.evaluate(self._model, [self._batch(examples, chosen) for chosen in plan])

    def _groups(self) -> list[dict[str, Any]]:
        """The trainable parameters with their learning rates: the delta's, and the head's."""
        trained = [(name, value) for name, value in self._model.named_parameters() if value.requires_grad]
        head = [value for name, value in trained if f".{HEAD}." in name]
        delta = [value for name, value in trained if f".{HEAD}." not in name]
        rate = self._settings.learning_rate
        groups = [{"params": delta, "lr": rate}, {"params": head, "lr": self._settings.head_learning_rate or rate}]
        return [group for group in groups if group["params"]]

    def _plan(self, train: Sequence[Encoded], epoch: int) -> list[Step]:
        settings = self._settings
        chooser = random.Random(f"{settings.seed}/{epoch}")
        lengths = [example.num_tokens for example in train]
        return plan_epoch(lengths, settings.batch_tokens, settings.micro_batch_tokens, chooser)

    def _step(self, train: Sequence[Encoded], step: Step, optimizer: AdamW) -> float:
        """One update; its gradient is that of the mean loss over all targets of the step. Returns the sum."""
        optimizer.zero_grad(set_to_none=True)
        num_targets = sum(train[index].num_targets for chosen in step for index in chosen)
        summed = 0.0
        for chosen in step:
            with self._autocast():
                loss = self._task.loss(self._model, self._batch(train, chosen))
            (loss / num_targets).backward()  # type: ignore[no-untyped-call]
            summed += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._settings.max_grad_norm)
        if not torch.isfinite(norm):
            raise TrainingFailedError(
                "training has diverged: the loss is no longer a number; use a smaller training.learning_rate"
            )
        optimizer.step()
        return summed

    def _batch(self, examples: Sequence[Encoded], chosen: Sequence[int]) -> Batch:
        return make_batch([examples[index] for index in chosen], self._pad_id, self._model.device)

    def _autocast(self) -> AbstractContextManager[Any]:
        device = self._model.device.type
        return torch.autocast(device, dtype=torch.bfloat16, enabled=self._dtype == torch.bfloat16)

    def _snapshot(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self._parameters]

    def _restore(self, snapshot: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for parameter, saved in zip(self._parameters, snapshot, strict=True):
                parameter.copy_(saved)


def _schedule(optimizer: AdamW, num_steps: int, warmup: float) -> LambdaLR:
    """The learning rate rises linearly in the warm-up's share of the steps, then falls linearly towards 0."""
    rising = max(1, round(num_steps * warmup))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return max(0.0, (num_steps - step) / (num_steps - rising))

    return LambdaLR(optimizer, factor)

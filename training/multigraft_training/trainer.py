"""The training loop: steps of micro-batches, an evaluation each epoch, the best adapter kept."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from multigraft_adapters.errors import TrainingFailedError
from multigraft_training.batches import Batch, Encoded, Step, make_batch, plan_epoch, plan_evaluation
from multigraft_training.objectives import Batches, Moment, Objective, Stage
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
    """Fits the trainable parameters of one PEFT model to an objective.

    The same model, examples and settings give the same parameters on a CPU.
    """

    def __init__(
        self, model: Any, objective: Objective, settings: TrainingPart, *, pad_id: int, dtype: torch.dtype
    ) -> None:
        self.model = model
        self._objective = objective
        self._settings = settings
        self._pad_id = pad_id
        self._dtype = dtype

    def fit(self, report: Report) -> Fit:
        """Train the objective's stages one after the other; the model holds the last one's best epoch.

        Raises TrainingFailedError when the loss is no longer a number.
        """
        for number in range(self._objective.num_stages):
            self._objective.begin(number, self)
            fit = self._fit(self._objective.stage(number), report)
        return fit

    def evaluate(self, compute: Callable[[Any, Batches], dict[str, float]]) -> dict[str, float]:
        """The metrics that `compute` finds of the model as it is, in evaluation."""
        self.model.eval()
        with torch.inference_mode(), self._autocast():
            return compute(self.model, self._batches)

    def each(self, examples: Sequence[Encoded], compute: Callable[[Batch], Tensor]) -> Tensor:
        """What `compute` gives for the examples' batches in evaluation, (examples, ...) in their order."""
        self.model.eval()
        plan = self._evaluation(examples)
        with torch.inference_mode(), self._autocast():
            found = torch.cat([compute(self._batch(examples, chosen)).cpu() for chosen in plan])
        order = torch.tensor([index for chosen in plan for index in chosen])
        return found[order.argsort()]

    def _fit(self, stage: Stage, report: Report) -> Fit:
        """Train until the last epoch or until `early_stopping` epochs brought nothing better."""
        settings = self._settings
        plans = [self._plan(stage, epoch) for epoch in range(stage.epochs)]
        num_steps = sum(len(plan) for plan in plans)
        parameters = [*self._trained(), *stage.extra]
        optimizer = AdamW(self._groups(stage), lr=settings.learning_rate, weight_decay=settings.weight_decay)
        schedule = _schedule(optimizer, num_steps, settings.warmup)
        epochs: list[Epoch] = []
        best, best_parameters = None, None
        done = 0
        with report.training(num_steps, stage.name):
            for number, plan in enumerate(plans, start=1):
                self.model.train()
                summed = 0.0
                for step in plan:
                    summed += self._step(stage, step, Moment(settings.seed, done, 0, num_steps), optimizer)
                    done += 1
                    schedule.step()
                    report.step()
                learnt = (stage.train[index] for step in plan for chosen in step for index in chosen)
                loss = summed / sum(example.num_targets for example in learnt)
                epoch = Epoch(number, loss, self.evaluate(stage.evaluate))
                epochs.append(epoch)
                report.epoch(number, stage.epochs, loss, epoch.metrics)
                if best is None or stage.score(epoch.metrics) > stage.score(best.metrics):
                    best, best_parameters = epoch, self._snapshot(parameters)
                elif settings.early_stopping and number - best.number >= settings.early_stopping:
                    report.note(f"stopped: no epoch after {best.number} was better")
                    break
        assert best is not None and best_parameters is not None
        self._restore(parameters, best_parameters)
        return Fit(tuple(epochs), best, done)

    def _trained(self) -> list[Tensor]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def _groups(self, stage: Stage) -> list[dict[str, Any]]:
        """The trainable parameters with their learning rates: the delta's, and the heads'."""
        trained = [(name, value) for name, value in self.model.named_parameters() if value.requires_grad]
        head = [*stage.extra, *(value for name, value in trained if f".{HEAD}." in name)]
        delta = [value for name, value in trained if f".{HEAD}." not in name]
        rate = self._settings.learning_rate
        groups = [{"params": delta, "lr": rate}, {"params": head, "lr": self._settings.head_learning_rate or rate}]
        return [group for group in groups if group["params"]]

    def _plan(self, stage: Stage, epoch: int) -> list[Step]:
        settings = self._settings
        chooser = random.Random(f"{settings.seed}/{epoch}")
        steps: list[Step] = []
        groups = stage.groups(chooser)
        for group in groups:
            lengths = [stage.train[index].num_tokens for index in group]
            plan = plan_epoch(lengths, settings.batch_tokens, settings.micro_batch_tokens, chooser)
            steps += [[[group[place] for place in chosen] for chosen in step] for step in plan]
        if len(groups) > 1:
            chooser.shuffle(steps)
        return steps

    def _step(self, stage: Stage, step: Step, moment: Moment, optimizer: AdamW) -> float:
        """One update; its gradient is that of the mean loss over all targets of the step. Returns the sum."""
        optimizer.zero_grad(set_to_none=True)
        num_targets = sum(stage.train[index].num_targets for chosen in step for index in chosen)
        summed = 0.0
        for micro, chosen in enumerate(step):
            with self._autocast():
                loss = stage.loss(self.model, self._batch(stage.train, chosen), replace(moment, micro=micro))
            (loss / num_targets).backward()  # type: ignore[no-untyped-call]
            summed += loss.item()
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self._settings.max_grad_norm)
        if not torch.isfinite(norm):
            raise TrainingFailedError(
                "training has diverged: the loss is no longer a number; use a smaller training.learning_rate"
            )
        optimizer.step()
        return summed

    def _batches(self, examples: Sequence[Encoded]) -> list[Batch]:
        return [self._batch(examples, chosen) for chosen in self._evaluation(examples)]

    def _evaluation(self, examples: Sequence[Encoded]) -> list[list[int]]:
        return plan_evaluation([example.num_tokens for example in examples], self._settings.micro_batch_tokens)

    def _batch(self, examples: Sequence[Encoded], chosen: Sequence[int]) -> Batch:
        return make_batch([examples[index] for index in chosen], self._pad_id, self.model.device)

    def _autocast(self) -> AbstractContextManager[Any]:
        device = self.model.device.type
        return torch.autocast(device, dtype=torch.bfloat16, enabled=self._dtype == torch.bfloat16)

    @staticmethod
    def _snapshot(parameters: Sequence[Tensor]) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in parameters]

    @staticmethod
    def _restore(parameters: Sequence[Tensor], snapshot: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for parameter, saved in zip(parameters, snapshot, strict=True):
                parameter.copy_(saved)


def measuring(task: TrainingTask, examples: Sequence[Encoded]) -> Callable[[Any, Batches], dict[str, float]]:
    """A task's metrics on a split, for `Trainer.evaluate`."""
    return lambda model, batches: task.evaluate(model, batches(examples))


def _schedule(optimizer: AdamW, num_steps: int, warmup: float) -> LambdaLR:
    """The learning rate rises linearly in the warm-up's share of the steps, then falls linearly towards 0."""
    rising = max(1, round(num_steps * warmup))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return max(0.0, (num_steps - step) / max(1, num_steps - rising))

    return LambdaLR(optimizer, factor)

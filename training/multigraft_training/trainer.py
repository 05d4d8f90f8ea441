"""The training loop: steps of micro-batches, an evaluation each epoch, the best adapter kept."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim import AdamW

from multigraft_training.batches import Batch, Encoded, Step, make_batch, plan_epoch, plan_evaluation
from multigraft_training.checkpoints import random_states, restore_random_states
from multigraft_training.objectives import Batches, Moment, Objective, Stage
from multigraft_training.packing import make_packed
from multigraft_training.processes import Processes, alone
from multigraft_training.progress import Epoch, Fit, Progress
from multigraft_training.recipe import TrainingPart
from multigraft_training.report import Report
from multigraft_training.run_folder import RunFolder, State
from multigraft_training.tasks import TrainingTask

T = TypeVar("T")

HEAD = "modules_to_save"
"""What PEFT calls the modules that are trained as they are: a task's head."""


class Trainer:
    """Fits the trainable parameters of one PEFT model to an objective.

    The same model, examples and settings give the same parameters on a CPU.
    """

    def __init__(
        self,
        model: Any,
        objective: Objective,
        settings: TrainingPart,
        *,
        pad_id: int,
        dtype: torch.dtype,
        processes: Processes | None = None,
    ) -> None:
        self.model = model
        self._objective = objective
        self._settings = settings
        self._pad_id = pad_id
        self._dtype = dtype
        self._processes = processes or alone()

    def fit(self, report: Report, folder: RunFolder) -> Fit:
        """Train the objective's stages one after the other; the model holds the last one's best epoch. Where the
        folder has a checkpoint, it goes on from there.

        Raises TrainingFailedError when the loss is no longer a number or the folder cannot be written,
        TrainingStoppedError when somebody asked for it.
        """
        saved = folder.saved
        progress = Progress() if saved is None else Progress.of_state(saved["progress"])
        if saved is not None:
            self._objective.load_state_dict(saved["objective"])
        folder.begin(progress)
        for number in range(progress.stage, self._objective.num_stages):
            if saved is None:
                self._objective.begin(number, self)
                progress.begin_stage(number)
            fit = self._fit(self._objective.stage(number), progress, saved, report, folder)
            saved = None
        return fit

    def evaluate(self, compute: Callable[[Any, Batches], T]) -> T:
        """What `compute` finds of the model as it is, in evaluation."""
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

    def _fit(
        self, stage: Stage, progress: Progress, saved: State | None, report: Report, folder: RunFolder
    ) -> Fit:
        """Train until the last epoch or until `early_stopping` epochs brought nothing better."""
        settings = self._settings
        plans = [self._plan(stage, epoch) for epoch in range(stage.epochs)]
        num_steps = sum(len(plan) for plan in plans)
        optimizer = AdamW(self._groups(stage), weight_decay=settings.weight_decay, fused=True)
        if saved is not None:
            self._resume(saved, stage, optimizer)
        folder.stage(progress, stage, num_steps)
        state = partial(self._state, progress, stage, optimizer)
        with report.training(num_steps, stage.name, progress.stage_steps):
            while len(progress.epochs) < stage.epochs and not self._is_patience_over(progress):
                plan = plans[len(progress.epochs)]
                self.model.train()
                for step in plan[progress.position :]:
                    rate = _set_rates(optimizer, progress.stage_steps, num_steps, settings.warmup)
                    moment = Moment(settings.seed, progress.stage_steps, 0, num_steps)
                    loss = self._step(stage, step, moment, optimizer)
                    if not math.isfinite(loss):
                        raise folder.diverged()
                    progress.count_step(loss)
                    report.step()
                    folder.step(progress, state, rate=rate, **_figures(stage, step, loss))
                self._close_epoch(progress, stage, plan)
                report.epoch(progress.epochs[-1], stage.epochs)
                is_last_stage = progress.stage + 1 == self._objective.num_stages
                score = stage.score(progress.epochs[-1].metrics) if is_last_stage else None
                folder.epoch(progress, state, score)
        assert progress.best_epoch is not None
        if len(progress.epochs) < stage.epochs:
            report.note(f"stopped: no epoch after {progress.best} was better")
        self._restore(self._parameters(stage), progress.best_parameters)
        return Fit(tuple(progress.epochs), progress.best_epoch, progress.stage_steps)

    def _close_epoch(self, progress: Progress, stage: Stage, plan: list[Step]) -> None:
        learnt = (stage.train[index] for step in plan for chosen in step for index in chosen)
        loss = progress.summed / sum(example.num_targets for example in learnt)
        metrics = self._processes.from_main(lambda: self.evaluate(stage.evaluate))
        best = progress.best_epoch
        progress.close_epoch(Epoch(len(progress.epochs) + 1, loss, metrics))
        if best is None or stage.score(metrics) > stage.score(best.metrics):
            progress.best = len(progress.epochs)
            progress.best_parameters = self._snapshot(self._parameters(stage))

    def _is_patience_over(self, progress: Progress) -> bool:
        """Whether so many epochs brought nothing better that training ends."""
        patience = self._settings.early_stopping
        return patience is not None and progress.epochs_since_best >= patience

    def _state(self, progress: Progress, stage: Stage, optimizer: AdamW) -> State:
        """All that a training goes on from. Every process must ask for it."""
        return {
            "progress": progress.state(),
            "parameters": self._snapshot(self._parameters(stage)),
            "optimizer": optimizer.state_dict()["state"],
            "objective": self._objective.state_dict(),
            "random": self._processes.gather(random_states()),
        }

    def _resume(self, saved: State, stage: Stage, optimizer: AdamW) -> None:
        """Take back what `_state` gave, but for progress and objective; the settings are those of now."""
        self._restore(self._parameters(stage), saved["parameters"])
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": saved["optimizer"], "param_groups": groups})
        restore_random_states(saved["random"][self._processes.rank])

    def _parameters(self, stage: Stage) -> list[Tensor]:
        """What a stage trains."""
        return [*(value for value in self.model.parameters() if value.requires_grad), *stage.extra]

    def _groups(self, stage: Stage) -> list[dict[str, Any]]:
        """The trainable parameters with their learning rates: the delta's, and the heads'."""
        trained = [(name, value) for name, value in self.model.named_parameters() if value.requires_grad]
        heads = {name for name, _ in trained if f".{HEAD}." in name} | getattr(
            self.model, "head_parameters", set()
        )
        head = [*stage.extra, *(value for name, value in trained if name in heads)]
        delta = [value for name, value in trained if name not in heads]
        rate = self._settings.learning_rate
        head_rate = self._settings.head_learning_rate or rate
        groups = [{"params": delta, "highest_lr": rate}, {"params": head, "highest_lr": head_rate}]
        return [group for group in groups if group["params"]]

    def _plan(self, stage: Stage, epoch: int) -> list[Step]:
        settings = self._settings
        chooser = random.Random(f"{settings.seed}/{epoch}")
        steps: list[Step] = []
        groups = stage.groups(chooser)
        for group in groups:
            lengths = [stage.train[index].num_tokens for index in group]
            plan = plan_epoch(
                lengths,
                settings.batch_tokens,
                settings.micro_batch_tokens,
                chooser,
                settings.sorted_steps,
                is_packed=settings.packing,
            )
            steps += [[[group[place] for place in chosen] for chosen in step] for step in plan]
        if len(groups) > 1:
            chooser.shuffle(steps)
        return steps

    def _step(self, stage: Stage, step: Step, moment: Moment, optimizer: AdamW) -> float:
        """One update; its gradient is that of the mean loss over all targets of the step, in all processes.

        Returns the summed loss, NaN where the gradient is not finite.
        """
        optimizer.zero_grad(set_to_none=True)
        num_targets = sum(stage.train[index].num_targets for chosen in step for index in chosen)
        summed = 0.0
        for micro, whole in enumerate(step):
            chosen = self._processes.share(whole)
            if not chosen:
                continue
            with self._autocast():
                loss = stage.loss(self.model, self._micro_batch(stage, chosen), replace(moment, micro=micro))
            (loss / num_targets).backward()  # type: ignore[no-untyped-call]
            summed += loss.item()
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._processes.sum_gradients(parameters)
        (summed,) = self._processes.sum(summed)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self._settings.max_grad_norm)
        if not torch.isfinite(norm):
            return math.nan
        optimizer.step()
        return summed

    def _batches(self, examples: Sequence[Encoded]) -> list[Batch]:
        return [self._batch(examples, chosen) for chosen in self._evaluation(examples)]

    def _evaluation(self, examples: Sequence[Encoded]) -> list[list[int]]:
        return plan_evaluation([example.num_tokens for example in examples], self._settings.micro_batch_tokens)

    def _batch(self, examples: Sequence[Encoded], chosen: Sequence[int]) -> Batch:
        return make_batch([examples[index] for index in chosen], self._pad_id, self.model.device)

    def _micro_batch(self, stage: Stage, chosen: Sequence[int]) -> Batch:
        if not self._settings.packing:
            return self._batch(stage.train, chosen)
        return make_packed([stage.train[index] for index in chosen], self._pad_id, self.model.device)

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


def _set_rates(optimizer: AdamW, done: int, num_steps: int, warmup: float) -> float:
    """Set the learning rates of the step after `done` ones and return the first group's.

    They rise linearly in the warm-up's share of the steps, then fall linearly towards 0.
    """
    rising = max(1, round(num_steps * warmup))
    factor = (done + 1) / rising if done < rising else max(0.0, (num_steps - done) / max(1, num_steps - rising))
    for group in optimizer.param_groups:
        group["lr"] = group["highest_lr"] * factor
    return float(optimizer.param_groups[0]["lr"])


def _figures(stage: Stage, step: Step, loss: float) -> dict[str, Any]:
    """What is told of a step with this summed loss."""
    chosen = [stage.train[index] for indices in step for index in indices]
    targets = sum(example.num_targets for example in chosen)
    return {"loss": loss / targets, "tokens": sum(example.num_tokens for example in chosen)}

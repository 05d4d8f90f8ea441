"""What a finished training leaves behind: the metrics, the artifact, the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from multigraft_training.export import Draft, RunFacts, draft
from multigraft_training.full import MODEL_FOLDER, extract, save_whole
from multigraft_training.model import load_model
from multigraft_training.objectives import ObjectiveSetup
from multigraft_training.objectives.multi_task import metrics_of
from multigraft_training.plots import Predictions
from multigraft_training.progress import Fit
from multigraft_training.recipe_methods import FullPart, LoraPart
from multigraft_training.run_folder import RunFolder, write_json
from multigraft_training.run_page import predictions, write_page
from multigraft_training.task_data import TaskData
from multigraft_training.trainer import Trainer, measuring

ADAPTER_FOLDER = "adapter"
ADAPTERS_FOLDER = "adapters"
"""Of a run's folder: the only task's adapter, and those of several, by name."""


@dataclass(frozen=True, slots=True)
class TrainedTask:
    """A task of a training that has ended well, with what it is told beside its metrics."""

    around: ObjectiveSetup
    data: TaskData
    model: Any
    facts: RunFacts
    baselines: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The metrics, those of each of several tasks under `<task>.<metric>`; and the adapters' folders by task, with
    their digests."""

    metrics: dict[str, float]
    adapters: dict[str, Path]
    digests: dict[str, str]


def write_outcome(
    tasks: Sequence[TrainedTask], trainer: Trainer, fit: Fit, reader: Any, folder: RunFolder, *, draws: bool
) -> Outcome:
    """Measure what was trained, export the adapters and fill the run's folder, with plots where `draws` says so.
    `reader` is the base's tokenizer or image processor. Raises as `draft` and `Draft.write` do."""
    output, is_one = folder.path, len(tasks) == 1
    named = [(one.around.recipe.task.name, one) for one in tasks]
    metrics: dict[str, float] = {}
    adapters: dict[str, Path] = {}
    seen: dict[str, Predictions] = {}
    drafts: dict[str, Draft] = {}
    for name, one in named:
        own = _metrics(one, trainer, fit, "" if is_one else name)
        found = predictions(trainer, one.model, one.data.task, one.data.measured) if draws else None
        seen |= {} if found is None else {"" if is_one else name: found}
        exported, beside, model = own, dict(one.baselines), one.model
        if isinstance(one.around.recipe.method, FullPart):
            save_whole(model, reader, output / MODEL_FOLDER)
            exported, model = _extract(one.around.recipe.method, one, trainer)
            beside = {f"extracted_{metric}": value for metric, value in exported.items()} | beside
        metrics |= own | beside if is_one else {f"{name}.{key}": value for key, value in (own | beside).items()}
        if exported:
            told = replace(one.facts, metrics=exported | dict(one.baselines))
            drafts[name] = draft(model, one.data.task, told, one.data.told)
            adapters[name] = output / ADAPTER_FOLDER if is_one else output / ADAPTERS_FOLDER / name
    with folder.keeping_checkpoint():
        digests = {name: one.write(adapters[name]).digest for name, one in drafts.items()}
        write_json(output / "metrics.json", metrics)
        write_json(output / "epochs.json", [asdict(epoch) for epoch in fit.epochs])
        if draws:
            write_page(output, tasks[0].around.recipe, metrics, list(digests.values()), seen)
    folder.end(metrics, next(iter(digests.values()), None))
    return Outcome(metrics, adapters, digests)


def _metrics(one: TrainedTask, trainer: Trainer, fit: Fit, name: str) -> dict[str, float]:
    """Of the test split; of validation in the best epoch where there is none. `name` is of one of several
    tasks."""
    if one.data.test is not None:
        test = one.data.test
        return trainer.evaluate(lambda _, batches: one.data.task.evaluate(one.model, batches(test)))
    of_task = f"{name}: " if name else ""
    one.around.report.note(f"{of_task}no test split: the metrics are those of the validation split")
    return metrics_of(name, fit.best.metrics) if name else fit.best.metrics


def _extract(method: FullPart, one: TrainedTask, trainer: Trainer) -> tuple[dict[str, float], Any]:
    """The LoRA that is wanted of a full fine-tune, and its metrics; none where none is wanted."""
    if method.extract is None:
        return {}, one.model
    part = LoraPart(rank=method.extract, alpha=method.extract, bias="all")
    around, device = one.around, one.model.device
    lora = load_model(around.folder, around.spec, around.task, part, device=device, dtype=torch.float32, longest=1)
    trainer.model = extract(one.model, lora)
    return trainer.evaluate(measuring(around.task, one.data.measured)), trainer.model

"""What a finished training leaves behind: the metrics, the artifact, the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from multigraft_training.batches import Encoded
from multigraft_training.export import RunFacts, export
from multigraft_training.full import MODEL_FOLDER, extract, save_whole
from multigraft_training.model import load_model
from multigraft_training.objectives import ObjectiveSetup
from multigraft_training.progress import Fit
from multigraft_training.recipe_methods import FullPart, LoraPart
from multigraft_training.run_folder import RunFolder, write_json
from multigraft_training.run_page import predictions, write_page
from multigraft_training.task_data import TaskData
from multigraft_training.trainer import Trainer, measuring


@dataclass(frozen=True, slots=True)
class Trained:
    """A training that has ended well, with what it is told beside: `baselines` stand beside its metrics, `reader`
    is the base's tokenizer or image processor."""

    around: ObjectiveSetup
    data: TaskData
    trainer: Trainer
    fit: Fit
    reader: Any
    facts: RunFacts
    baselines: Mapping[str, float]


def write_outcome(
    trained: Trained, folder: RunFolder, output: Path, *, draws: bool
) -> tuple[dict[str, float], str | None]:
    """Measure the trained model, export its adapter and fill `output`, with plots where `draws` says so.

    Returns the metrics and the adapter's digest, None where none was made. Raises as `export` does.
    """
    around, data, trainer = trained.around, trained.data, trained.trainer
    recipe, task = around.recipe, data.task
    if data.test is None:
        around.report.note("no test split: the metrics are those of the validation split")
    own = trained.fit.best.metrics if data.test is None else trainer.evaluate(measuring(task, data.test))
    exported, extracted = own, dict[str, float]()
    if isinstance(recipe.method, FullPart):
        save_whole(trainer.model, trained.reader, output / MODEL_FOLDER)
        exported = _extract(recipe.method, around, trainer, data.measured)
        extracted = {f"extracted_{name}": value for name, value in exported.items()}
    metrics = own | extracted | dict(trained.baselines)
    seen = predictions(trainer, task, data.measured) if draws else None
    with folder.keeping_checkpoint():
        digest = None
        if exported:
            told = replace(trained.facts, metrics=exported | dict(trained.baselines))
            digest = export(trainer.model, task, told, data.told, output / "adapter").digest
        write_json(output / "metrics.json", metrics)
        write_json(output / "epochs.json", [asdict(epoch) for epoch in trained.fit.epochs])
        if draws:
            write_page(output, recipe, metrics, digest, seen)
    folder.end(metrics, digest)
    return metrics, digest


def _extract(
    method: FullPart, around: ObjectiveSetup, trainer: Trainer, split: Sequence[Encoded]
) -> dict[str, float]:
    """Put the LoRA that is wanted of a full fine-tune in its place; its metrics, none where none is wanted."""
    if method.extract is None:
        return {}
    part = LoraPart(rank=method.extract, alpha=method.extract, bias="all")
    device = trainer.model.device
    lora = load_model(around.folder, around.spec, around.task, part, device=device, dtype=torch.float32, longest=1)
    trainer.model = extract(trainer.model, lora)
    return trainer.evaluate(measuring(around.task, split))

"""What a finished run shows: plots as PNG, and one HTML page that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from multigraft_training.baselines import KINDS
from multigraft_training.batches import Encoded
from multigraft_training.plots import Predictions, draw_calibration, draw_confusion, draw_loss, draw_metrics
from multigraft_training.recipe import Recipe
from multigraft_training.run_log import LOG_FILE, read_log
from multigraft_training.tasks import TrainingTask
from multigraft_training.tasks.classification import ClassificationTask
from multigraft_training.trainer import Trainer

PAGE_FILE = "run.html"
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .2rem .8rem; text-align: left }
tr + tr { border-top: 1px solid #ddd } img { max-width: 100%; margin: .5rem }
pre { background: #f5f5f5; padding: 1rem }
"""


def predictions(trainer: Trainer, model: Any, task: TrainingTask, split: Sequence[Encoded]) -> Predictions | None:
    """What a task's trained model says of a split whose rows have one class each; None of other tasks."""
    if not isinstance(task, ClassificationTask) or task.problem.name != "single_label_classification":
        return None
    found = trainer.each(split, lambda batch: task.logits(model, batch).softmax(dim=-1))
    truth = np.array([int(example.targets[0]) for example in split])
    return Predictions(task.labels, found.float().numpy(), truth)


def write_page(
    output: Path,
    recipe: Recipe,
    metrics: Mapping[str, float],
    digests: Sequence[str],
    seen: Mapping[str, Predictions],
) -> None:
    """Draw loss.png and metrics.png, of classes also confusion.png and calibration.png, and put them into
    run.html. What was `seen` of one of several tasks has its name in the files' names; the only task's is
    empty."""
    log = read_log(output / LOG_FILE)
    draw_loss(output / "loss.png", log)
    draw_metrics(output / "metrics.png", log)
    plots = ["loss.png", "metrics.png"]
    for task, found in seen.items():
        own = [f"{kind}-{task}.png" if task else f"{kind}.png" for kind in ("confusion", "calibration")]
        draw_confusion(output / own[0], found)
        draw_calibration(output / own[1], found)
        plots += own
    config = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    epochs = [line for line in log if line["event"] == "epoch"]
    parts = [
        f"<h1>{escape(recipe.task.name)}</h1><p>{escape(recipe.task.type)} on {escape(recipe.base)}",
        f"by {escape(recipe.method.name)}: {escape(', '.join(digests) or 'no adapter')}</p>",
        _table(_beside(metrics)),
        *(_image(output / name) for name in plots),
        _table([("epoch", "loss", "validation"), *(_epoch(line) for line in epochs)]),
        f"<pre>{escape(config)}</pre>",
    ]
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(recipe.task.name)}</title>"
    (output / PAGE_FILE).write_text(f"{head}<style>{STYLE}</style>" + "\n".join(parts) + "</html>\n", "utf-8")


def _epoch(line: Mapping[str, Any]) -> tuple[str, str, str]:
    told = "  ".join(f"{name} {value:.4f}" for name, value in line["validation"].items())
    best = " (best so far)" if line["is_best"] else ""
    return f"{line['epoch']}{best}", f"{line['loss']:.4f}", told


def _beside(metrics: Mapping[str, float]) -> list[Sequence[str]]:
    """A row for each metric, with a column for each baseline that there is."""
    split = {name: name.rpartition(".") for name in metrics}
    kinds = [kind for kind in KINDS if any(last.startswith(f"{kind}_") for _, _, last in split.values())]
    own = [name for name in metrics if not split[name][2].startswith(tuple(f"{kind}_" for kind in kinds))]
    rows = [
        [name, *("{}{}{}_{}".format(*split[name][:2], kind, split[name][2]) for kind in kinds)] for name in own
    ]
    values = [[f"{metrics[one]:.4f}" if one in metrics else "" for one in row] for row in rows]
    return [("metric", "value", *kinds), *((name, *row) for name, row in zip(own, values, strict=True))]


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return f"<table>{''.join(lines)}</table>"


def _image(file: Path) -> str:
    encoded = base64.b64encode(file.read_bytes()).decode("ascii")
    return f'<img alt="{escape(file.stem)}" src="data:image/png;base64,{encoded}">'

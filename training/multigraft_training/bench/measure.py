"""One cell: the training of a recipe, with what it took."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from multigraft_training.bench.cells import Cell, Data
from multigraft_training.bench.pace import Pace, PacedReport
from multigraft_training.bench.stock import Stock, train_stock
from multigraft_training.recipe import read_recipe
from multigraft_training.run import RunResult, run

ADAPTER = "adapter"
DATA_DIR = "$DATA_DIR"
"""What stands for the data folder in a row's overrides."""


def measure(cell: Cell, data: Data, data_dir: Path, folder: Path) -> dict[str, Any]:
    """Train a cell in a folder of its own, which is removed at the end.

    `seconds` and `cpu_seconds` are of the whole run, from reading the data to the verified artifact;
    `tokens_per_cpu_second` is of the training steps alone, padding not counted.
    """
    place = folder / cell.key
    place.mkdir(parents=True, exist_ok=True)
    overrides = [one.replace(DATA_DIR, str(data_dir.resolve())) for one in cell.overrides]
    recipe, source = read_recipe(_write_recipe(cell, data, data_dir, place), overrides)
    pace = Pace()
    began, began_cpu = time.perf_counter(), time.process_time()
    if cell.runner == "peft":
        values = _stock(train_stock(recipe, data_dir, place / "stock", pace), data.metric)
    else:
        with (place / "run.log").open("w", encoding="utf-8") as log:
            result = run(recipe, source, data_dir, PacedReport(Console(file=log, width=200), pace))
        values = _ours(result, data.metric) | {"bytes": _size(place / ADAPTER)}
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
    measured = {**values, "seconds": round(seconds, 1), "cpu_seconds": round(cpu_seconds, 1)}
    if pace.cpu_seconds:
        measured["tokens_per_cpu_second"] = round(values["tokens"] * values["epochs"] / pace.cpu_seconds, 1)
    shutil.rmtree(place)
    return measured


def _ours(result: RunResult, metric: str) -> dict[str, Any]:
    return {
        "metric": result.metrics[metric],
        "extracted": result.metrics.get(f"extracted_{metric}"),
        "metrics": result.metrics,
        "trained": result.num_trained,
        "epochs": len(result.fit.epochs),
        "tokens": result.num_tokens,
    }


def _stock(result: Stock, metric: str) -> dict[str, Any]:
    values = {"metric": result.metrics[metric], "metrics": result.metrics}
    return {**values, "trained": result.num_trained, "epochs": result.epochs, "tokens": result.num_tokens}


def _write_recipe(cell: Cell, data: Data, data_dir: Path, place: Path) -> Path:
    """The cell's recipe without its overrides, as the YAML that JSON is."""
    recipe = {
        "base": data.base,
        "task": {"name": "bench", "type": data.task_type},
        "data": dict(data.files(data_dir.resolve())),
        "training": {"seed": cell.seed},
        "output": str(place),
    }
    file = place / "recipe.yaml"
    file.write_text(json.dumps(recipe, indent=2), encoding="utf-8")
    return file


def _size(folder: Path) -> int | None:
    """The bytes of an artifact; None where the method makes none."""
    return sum(file.stat().st_size for file in folder.iterdir()) if folder.is_dir() else None

"""What objectives are worth, each beside plain training: with few labels, or on another domain than is tested."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path

from rich.console import Console

from multigraft_training.bench.cells import Data, Goal, Results, Row, Table
from multigraft_training.datasets import dataset_folder
from multigraft_training.recipe import read_recipe
from multigraft_training.report import Report
from multigraft_training.run import run

FOLDER = "bench"
"""Where, in the data folder, the files of these data are made."""

TEACHER = "teacher"
NUM_FEW = 100
NUM_VALIDATED = 100
NUM_UNLABELLED = 1000
NUM_TAUGHT = 4000
NUM_SOURCE = 1000

LORA = ("method.name=lora", "method.rank=8", "method.alpha=16", "training.learning_rate=1.0e-3")
SHORT = (
    *LORA,
    "training.max_length=128",
    "training.micro_batch_tokens=4096",
    "training.base_dropout=0",
    "training.early_stopping=null",
)
FEW = (*SHORT, "training.batch_tokens=512", "training.epochs=15")
PLAIN = ("objective={name: supervised}", "data.unlabelled=null")


def few(data_dir: Path) -> Mapping[str, str]:
    """Few labelled movie reviews, and more without labels."""
    folder = dataset_folder("movie-reviews", data_dir)
    rows = _lines(folder / "train.jsonl")
    labelled, rest = NUM_FEW + NUM_VALIDATED, rows[NUM_FEW + NUM_VALIDATED :]
    return {
        "train": _written(data_dir, "few-train", rows[:NUM_FEW]),
        "validation": _written(data_dir, "few-validation", rows[NUM_FEW:labelled]),
        "unlabelled": _written(data_dir, "few-unlabelled", _texts(rest[:NUM_UNLABELLED])),
        "test": str(folder / "test.jsonl"),
    }


def taught(data_dir: Path) -> Mapping[str, str]:
    """The same, and beside them a teacher that has learnt from many others with labels: an adapter."""
    files = few(data_dir)
    place = data_dir / FOLDER / TEACHER
    if not (place / "adapter").is_dir():
        rows = _lines(dataset_folder("movie-reviews", data_dir) / "train.jsonl")
        recipe = {
            "base": "minilm",
            "task": {"name": TEACHER, "type": "text-classification"},
            "data": {"train": _written(data_dir, TEACHER, rows[-NUM_TAUGHT:])},
            "training": {"epochs": 2, "max_length": 128, "batch_tokens": 1024, "learning_rate": 1e-3},
            "output": str(place),
        }
        file = data_dir / FOLDER / f"{TEACHER}.yaml"
        file.write_text(json.dumps(recipe), encoding="utf-8")
        run(*read_recipe(file), data_dir, Report(Console(file=StringIO())))
    return files


def shifted(data_dir: Path) -> Mapping[str, str]:
    """Labelled movie reviews, tweets without labels, tested on tweets."""
    movies, tweets = (dataset_folder(name, data_dir) for name in ("movie-reviews", "tweets"))
    return {
        "train": _written(data_dir, "shifted-train", _lines(movies / "train.jsonl")[:NUM_SOURCE]),
        "unlabelled": _written(data_dir, "shifted-unlabelled", _texts(_lines(tweets / "train.jsonl"))),
        "test": str(tweets / "test.jsonl"),
    }


def _lines(file: Path) -> list[str]:
    return file.read_text("utf-8").split("\n")[:-1]


def _texts(lines: list[str]) -> list[str]:
    return [json.dumps({"text": json.loads(line)["text"]}, ensure_ascii=False) for line in lines]


def _written(data_dir: Path, name: str, lines: list[str]) -> str:
    file = data_dir / FOLDER / f"{name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(file)


def _beating_plain(row: str, data: str) -> Callable[[Results], list[Goal]]:
    def goals(results: Results) -> list[Goal]:
        plain, own = results.mean("supervised", data), results.mean(row, data)
        text = f"{row} beats plain training on {data}"
        if plain is None or own is None:
            return [Goal(text, "", None)]
        return [Goal(text, f"{100 * (own - plain):+.1f} points", own > plain)]

    return goals


def _table(name: str, title: str, data: str, settings: tuple[str, ...], *overrides: str) -> Table:
    """Plain training and an objective of the table's name on one data."""
    rows = (Row("supervised", PLAIN), Row(name, overrides))
    return Table(name, title, rows, (data,), settings=settings, goals=_beating_plain(name, data))


OBJECTIVE_DATA = (
    Data("few-movies", few, metric="accuracy"),
    Data("taught-movies", taught, metric="accuracy"),
    Data("movies-to-tweets", shifted, metric="accuracy"),
)

OBJECTIVE_TABLES = (
    _table(
        "pseudo-labels",
        f"LoRA on minilm, {NUM_FEW} labelled movie reviews and {NUM_UNLABELLED} without labels",
        "few-movies",
        FEW,
        "objective={name: pseudo-labels, threshold: 0.9, epochs: 5}",
    ),
    _table(
        "distillation",
        f"the same; the teacher is a LoRA that saw the labels of {NUM_TAUGHT} other reviews",
        "taught-movies",
        FEW,
        f"objective={{name: distillation, teacher: {{adapter: $DATA_DIR/{FOLDER}/{TEACHER}/adapter}}}}",
        "training.epochs=4",
    ),
    _table(
        "mmd",
        f"LoRA on minilm, {NUM_SOURCE} labelled movie reviews, tweets without labels, tested on tweets",
        "movies-to-tweets",
        (*SHORT, "training.batch_tokens=512", "training.epochs=4"),
        "objective={name: mmd, weight: 0.1}",
    ),
)
"""Small enough for about a quarter of an hour on two idle cores."""

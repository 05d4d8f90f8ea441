"""Small data and recipes, written to a folder as a user would."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from rich.console import Console

from multigraft_training.recipe import read_recipe
from multigraft_training.report import Report
from multigraft_training.run import RunResult, run
from multigraft_training.run_folder import Watch

WORDS = {"good": "positive", "bad": "negative", "so so": "mixed"}
CLASS_ROWS = [{"text": f"{word} {i}", "label": label} for i in range(10) for word, label in WORDS.items()]
CHAT_ROWS = [
    {"messages": [{"role": "user", "content": f"hi {i}"}, {"role": "assistant", "content": "arr"}]}
    for i in range(16)
]
COMPLETION_ROWS = [{"prompt": f"count {i}", "completion": f" {i + 1}"} for i in range(16)]

NAMES = ("Ada", "Bo", "Cy", "Di")
TAG_ROWS: list[dict[str, Any]] = [
    {"tokens": ["ask", name, "in", place], "tags": ["O", "B-PER", "O", "B-LOC"]}
    for name in NAMES
    for place in ("Rom", "Ulm", "Bonn", "Oslo")
]
QUESTION_ROWS: list[dict[str, Any]] = [
    {
        "question": "who?",
        "context": f"it is {name} today",
        "answers": {"text": [name], "answer_start": [6]},
    }
    for name in NAMES
] * 4
PAIR_ROWS: list[dict[str, Any]] = [
    {"text": f"{name} is here", "text_pair": f"here is {name}"} for name in NAMES
] * 4
SCORE_ROWS: list[dict[str, Any]] = [
    {"text": name, "text_pair": other, "score": 1.0 if name == other else -0.5}
    for name in NAMES
    for other in NAMES
]


def write_images(folder: Path) -> list[dict[str, Any]]:
    """Small pictures, light or dark, as files in `folder`, and their rows."""
    rows = []
    for number in range(16):
        label, level = (("light", 255), ("dark", 0))[number % 2]
        Image.new("RGB", (8, 8), (level, abs(level - number), number)).save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "label": label})
    return rows


def rows_of(task_type: str, folder: Path) -> list[dict[str, Any]]:
    """Rows of a task type; of images, whose files are written to `folder`."""
    if task_type == "image-classification":
        return write_images(folder)
    rows: dict[str, list[dict[str, Any]]] = {
        "text-classification": CLASS_ROWS,
        "token-classification": TAG_ROWS,
        "question-answering": QUESTION_ROWS,
        "feature-extraction": PAIR_ROWS,
        "text-generation": [*CHAT_ROWS, *COMPLETION_ROWS],
    }
    return rows[task_type]


def write_jsonl(file: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def recipe_values(base: Path | str, task_type: str, folder: Path, **training: Any) -> dict[str, Any]:
    """A recipe for a run of a second in `folder`, whose train.jsonl also is the test split."""
    fast = {"epochs": 3, "batch_tokens": 128, "learning_rate": 5e-3, "precision": "float32"}
    return {
        "base": str(base),
        "task": {"name": "tiny", "type": task_type},
        "data": {"train": "train.jsonl", "test": "train.jsonl"},
        "method": {"name": "lora", "rank": 4, "alpha": 8},
        "training": {**fast, **training},
        "output": str(folder / "run"),
    }


def write_recipe(folder: Path, values: Mapping[str, Any]) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(dict(values), sort_keys=False), encoding="utf-8")
    return file


def train(folder: Path, values: Mapping[str, Any], watch: Watch | None = None) -> tuple[RunResult, str]:
    """Run a recipe in `folder`; returns the result and what was told on the way."""
    told = StringIO()
    recipe, source = read_recipe(write_recipe(folder, values))
    result = run(recipe, source, folder / "data", Report(Console(file=told, width=200)), watch or Watch())
    return result, told.getvalue()

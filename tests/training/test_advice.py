"""Advice: from a data file to a recipe, its reasons, and the check of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from multigraft_adapters.errors import InvalidDataError
from multigraft_training.cli import train as train_command
from multigraft_training.recipe import read_recipe
from tests.training.conftest import TinyBase
from tests.training.made import CHAT_ROWS, CLASS_ROWS, write_jsonl

LONG = [{"text": "word " * 3, "label": str(i % 2)} for i in range(1200)]
UNEVEN = [*[{"text": f"good {i}", "label": "usual"} for i in range(60)], *[{"text": "bad", "label": "rare"}] * 3]


def advised(
    folder: Path, base: Path, rows: Iterable[Mapping[str, Any]], *options: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[Any, Result]:
    """The recipe that is written, and what the command said."""
    monkeypatch.chdir(folder)
    data = write_jsonl(folder / "data.jsonl", rows)
    command = ["--advise", str(data), "--base", str(base), "--data-dir", str(folder / "data"), *options]
    done = CliRunner().invoke(train_command, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return read_recipe(folder / "advised.yaml")[0], done


@pytest.mark.parametrize(
    ("model_type", "rows", "options", "expected", "reason"),
    [
        ("bert", CLASS_ROWS, [], {"method.name": "bottleneck", "task.type": "text-classification"}, "fewer than"),
        ("bert", LONG, [], {"method.name": "lora", "method.rank": 8, "training.epochs": 8}, "1080 examples"),
        ("bert", LONG, ["--tasks", "100000", "--memory", "2"], {"method.name": "ia3"}, "more than a quarter"),
        ("llama", CHAT_ROWS, [], {"method.name": "lora", "task.type": "text-generation"}, "a decoder"),
        ("bert", UNEVEN, [], {"objective.class_weights": "balanced"}, '"rare" has 2 examples'),
        ("bert", LONG, ["--memory", "0.004"], {"training.micro_batch_tokens": 256}, "more would not fit"),
    ],
)
def test_advice_follows_from_the_data_the_tasks_and_the_memory(
    tmp_path: Path,
    tiny_base: TinyBase,
    monkeypatch: pytest.MonkeyPatch,
    model_type: str,
    rows: list[dict[str, Any]],
    options: list[str],
    expected: dict[str, Any],
    reason: str,
) -> None:
    recipe, done = advised(tmp_path, tiny_base(model_type), rows, *options, monkeypatch=monkeypatch)
    values = recipe.model_dump()
    for name, value in expected.items():
        part, _, field = name.partition(".")
        assert values[part][field] == value, done.stdout
    assert reason in done.stdout
    assert reason in (tmp_path / "advised.yaml").read_text()


def test_advice_is_checked_by_a_short_search(
    tmp_path: Path, tiny_base: TinyBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, done = advised(tmp_path, tiny_base("bert"), CLASS_ROWS, "--check", monkeypatch=monkeypatch)
    found = json.loads((tmp_path / "runs/advised/check/search.json").read_text())
    methods = [trial["values"]["method"]["name"] for trial in found["trials"]]
    assert methods == ["bottleneck", "lora", "ia3"]
    best = methods[found["best"]]
    assert recipe.method.name == best
    assert ("the advice holds" if best == "bottleneck" else f"does not hold: {best}") in done.stdout


def test_data_of_no_task_type_gets_no_advice(tmp_path: Path, tiny_base: TinyBase) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", [{"sentence": "good", "class": "a"}])
    done = CliRunner().invoke(train_command, ["--advise", str(data)])
    assert isinstance(done.exception, InvalidDataError)
    assert "data.jsonl:1: the fields sentence, class are of no task type" in done.exception.message
    done = CliRunner().invoke(train_command, ["--advise", str(tmp_path / "none.jsonl")])
    assert isinstance(done.exception, InvalidDataError) and "no such file" in done.exception.message

"""Searches over a recipe's fields, and cross-validation."""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from multigraft_adapters.errors import InvalidRecipeError, TrainingStoppedError
from multigraft_training.cli import train as train_command
from multigraft_training.folds import cross_validate, deal
from multigraft_training.recipe import read_recipe
from multigraft_training.report import Report
from multigraft_training.search.command import search
from multigraft_training.search.space import read_space
from multigraft_training.stopping import StopWish
from tests.crash.kill import forked
from tests.training.conftest import TinyBase
from tests.training.made import CLASS_ROWS, recipe_values, write_jsonl, write_recipe
from tests.training.test_resume import AtStep

FIELDS = {
    "training.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "method.rank": [2, 4],
}


def prepare(folder: Path, base: Path, fields: dict[str, Any] | None = None, **options: Any) -> tuple[Path, Path]:
    """A recipe and a search file."""
    folder.mkdir(exist_ok=True)
    write_jsonl(folder / "train.jsonl", CLASS_ROWS)
    recipe = write_recipe(folder, recipe_values(base, "text-classification", folder, epochs=2))
    file = folder / "search.yaml"
    file.write_text(yaml.safe_dump({**options, "fields": fields or FIELDS}))
    return recipe, file


def searched(folder: Path, recipe: Path, file: Path, wish: StopWish | None = None) -> list[str]:
    return search(file, recipe, [], folder / "data", Report(), wish or StopWish(), fresh=False)


def trials(folder: Path) -> list[dict[str, Any]]:
    """What a search says of its trials, but for the time that they took."""
    found = json.loads((folder / "run" / "search.json").read_text())["trials"]
    return [{name: value for name, value in trial.items() if name != "seconds"} for trial in found]


def test_a_search_that_was_killed_goes_on_to_the_same_trials(tmp_path: Path, tiny_base: TinyBase) -> None:
    options: dict[str, Any] = {"trials": 7, "seed": 3, "metric": "loss", "direction": "minimize"}
    whole = prepare(tmp_path / "whole", tiny_base("bert"), **options)
    lines = searched(tmp_path / "whole", *whole)
    killed = prepare(tmp_path / "killed", tiny_base("bert"), **options)
    for step in (3, 4):
        killer = AtStep(step, lambda: os.kill(os.getpid(), signal.SIGKILL))
        child = forked(partial(searched, tmp_path / "killed", *killed, killer))
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert searched(tmp_path / "killed", *killed) == lines
    assert trials(tmp_path / "killed") == trials(tmp_path / "whole")
    found = trials(tmp_path / "whole")
    assert [trial["number"] for trial in found] == list(range(7))
    assert any(trial["state"] == "pruned" for trial in found)
    assert len({trial["values"]["training.learning_rate"] for trial in found}) == 7

    told = json.loads((tmp_path / "whole/run/search.json").read_text())
    best = told["trials"][told["best"]]
    completed = [trial["value"] for trial in found if trial["state"] == "complete"]
    assert best["value"] == min(completed) == best["metrics"]["loss"]
    recipe, _ = read_recipe(tmp_path / "whole/run/best.yaml")
    assert recipe.training.learning_rate == best["values"]["training.learning_rate"]
    assert recipe.method.model_dump()["rank"] == best["values"]["method.rank"]
    assert (tmp_path / "whole/run/search.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InvalidRecipeError, match="holds a search with other settings"):
        searched(tmp_path / "whole", *prepare(tmp_path / "whole", tiny_base("bert"), trials=7, seed=4))


def test_a_grid_tries_every_combination_and_a_trial_that_fails_is_told(
    tmp_path: Path, tiny_base: TinyBase
) -> None:
    fields = {"method.rank": [1, 2], "training.learning_rate": [0.001, 1e30]}
    options: dict[str, Any] = {"method": "grid", "metric": "loss", "direction": "minimize", "prune": False}
    recipe, file = prepare(tmp_path, tiny_base("bert"), fields, **options)
    command = [str(recipe), "training.warmup=0", "--search", str(file), "--data-dir", str(tmp_path / "data")]
    done = CliRunner().invoke(train_command, command, catch_exceptions=False)
    assert done.exit_code == 0
    found = trials(tmp_path)
    assert [tuple(trial["values"].values()) for trial in found] == [(1, 0.001), (1, 1e30), (2, 0.001), (2, 1e30)]
    assert [trial["state"] for trial in found] == ["complete", "fail"] * 2
    assert "training has diverged" in found[1]["problem"]
    best = json.loads((tmp_path / "run/search.json").read_text())["best"]
    assert found[best]["value"] == min(trial["metrics"]["loss"] for trial in found[::2])
    metrics = json.loads((tmp_path / f"run/trials/{best:03}/metrics.json").read_text())
    assert done.stdout.splitlines()[-len(metrics) :] == [f"{name} {value:.3f}" for name, value in metrics.items()]


def test_a_search_file_is_refused_with_every_problem_and_its_line(tmp_path: Path, tiny_base: TinyBase) -> None:
    recipe, file = prepare(tmp_path, tiny_base("bert"))
    file.write_text(
        "method: random\nfields:\n  method.rank: [4, 0]\n  training.rate: [1]\n"
        "  training.epochs: {low: 1, high: 0.5}\n"
    )
    with pytest.raises(InvalidRecipeError, match=r"search.yaml:5: fields.training.epochs: low must be below high"):
        read_space(file, recipe, [])
    file.write_text("fields:\n  method.rank: [4, 0]\n  training.rate: [1]\n")
    with pytest.raises(InvalidRecipeError) as raised:
        read_space(file, recipe, [])
    problems = raised.value.problems
    assert len(problems) == 2
    assert problems[0].startswith("search.yaml:2: fields.method.rank: ") and "greater than" in problems[0]
    assert problems[1].startswith("search.yaml:3: fields.training.rate: ") and "unknown field" in problems[1]
    file.write_text("method: grid\nfields:\n  training.learning_rate: {low: 1.0e-4, high: 1.0e-3}\n")
    with pytest.raises(InvalidRecipeError, match=r"search.yaml:3: .*a grid needs a list of values"):
        read_space(file, recipe, [])
    file.write_text("metric: f2\nfields:\n  method.rank: [2]\n")
    with pytest.raises(InvalidRecipeError, match="no validation metric 'f2'; there are accuracy, macro_f1, loss"):
        searched(tmp_path, recipe, file)


def test_cross_validation_tests_on_every_example_once_and_goes_on_where_it_was_stopped(
    tmp_path: Path, tiny_base: TinyBase
) -> None:
    classes = ["a"] * 10 + ["b"] * 5 + ["c"] * 2
    folds = deal(classes, 5, seed=1)
    assert sorted(index for fold in folds for index in fold) == list(range(17))
    for fold in folds:
        assert [sum(classes[index] == name for index in fold) for name in "ab"] == [2, 1]

    recipe, _ = prepare(tmp_path, tiny_base("bert"))
    arguments = (recipe, ["data.test=null"], 3, tmp_path / "data", Report())
    with pytest.raises(TrainingStoppedError):
        cross_validate(*arguments, AtStep(4, lambda: True), fresh=False)
    lines = cross_validate(*arguments, StopWish(), fresh=False)
    told = json.loads((tmp_path / "run/folds.json").read_text())
    accuracies = [fold["accuracy"] for fold in told["folds"]]
    assert len(accuracies) == 3
    assert told["mean"]["accuracy"] == pytest.approx(sum(accuracies) / 3)
    assert lines[0] == f"accuracy {told['mean']['accuracy']:.3f} ± {told['deviation']['accuracy']:.3f}"
    done = invoke(recipe, tmp_path, "--folds", "3")
    assert done.stdout.splitlines() == lines
    refused = invoke(recipe, tmp_path, "--folds", "4")
    assert isinstance(refused.exception, InvalidRecipeError) and "--fresh" in refused.exception.message


def invoke(recipe: Path, folder: Path, *options: str) -> Result:
    command = [str(recipe), "data.test=null", "--data-dir", str(folder / "data"), *options]
    return CliRunner().invoke(train_command, command)

"""One delta for several tasks with a head each: the artifacts, the sampling, what cannot be shared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from multigraft_adapters.artifact import read_folder
from multigraft_adapters.bases import read_spec
from multigraft_adapters.errors import InvalidRecipeError, TrainingStoppedError
from multigraft_adapters.verify import verify
from multigraft_training.run import RunResult
from multigraft_training.run_folder import Watch
from multigraft_training.run_log import read_log
from tests.training.conftest import TinyBase
from tests.training.made import recipe_values, rows_of, train, write_jsonl

TYPES = ("text-classification", "token-classification", "question-answering")
LONGEST_TEXT = 11
"""Tokens of a text with a class; texts with tags have more."""
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"name": "lora", "rank": 2},
    "ia3": {"name": "ia3"},
    "bottleneck": {"name": "bottleneck", "placement": "parallel"},
    "prefix": {"name": "prefix", "virtual_tokens": 3},
    "prompt": {"name": "prompt", "virtual_tokens": 3},
    "p-tuning": {"name": "p-tuning", "virtual_tokens": 3},
}


def values_of(base: Path, folder: Path, types: tuple[str, ...] = TYPES, **more: Any) -> dict[str, Any]:
    """A recipe of tasks that are called after their types."""
    for task_type in types:
        write_jsonl(folder / f"{task_type}.jsonl", rows_of(task_type, folder))
    first, *others = types
    values = recipe_values(base, first, folder)
    further = {one: {"type": one, "train": f"{one}.jsonl", "test": f"{one}.jsonl"} for one in others}
    return values | {
        "task": {"name": first, "type": first},
        "data": {"train": f"{first}.jsonl", "test": f"{first}.jsonl"},
        "objective": {"name": "multi-task", "tasks": further, **more},
    }


def delta_of(adapter: Path) -> dict[str, torch.Tensor]:
    """An artifact's tensors but for its head's."""
    heads = tuple(json.loads((adapter / "adapter_config.json").read_text())["modules_to_save"])
    tensors = load_file(adapter / "adapter_model.safetensors")
    return {
        name: value
        for name, value in tensors.items()
        if not name.removeprefix("base_model.").removeprefix("model.").startswith(heads)
    }


@pytest.mark.parametrize("method", METHODS)
def test_the_artifacts_share_one_delta_and_each_has_a_head_and_metrics_of_its_own(
    tmp_path: Path, tiny_base: TinyBase, method: str
) -> None:
    base = tiny_base("bert")
    result, told = train(tmp_path, values_of(base, tmp_path) | {"method": METHODS[method]})
    assert list(result.adapters) == list(TYPES)
    spec = read_spec(base.name, base)
    manifests = [verify(read_folder(folder), spec).manifest for folder in result.adapters.values()]
    assert [manifest.task_type for manifest in manifests] == list(TYPES)
    for task, manifest in zip(TYPES, manifests, strict=True):
        own = {name: value for name, value in result.metrics.items() if name.startswith(f"{task}.")}
        assert own and manifest.metrics == {name.removeprefix(f"{task}."): value for name, value in own.items()}
    assert json.loads((tmp_path / "run/metrics.json").read_text()) == result.metrics
    first, *others = [delta_of(folder) for folder in result.adapters.values()]
    assert first and not any("pooler" in name for name in first)
    for other in others:
        assert other.keys() == first.keys()
        assert all(torch.equal(other[name], value) for name, value in first.items())


def test_tasks_that_all_read_the_pooler_have_a_delta_on_it(tmp_path: Path, tiny_base: TinyBase) -> None:
    values = values_of(tiny_base("bert"), tmp_path, ("text-classification",))
    values["objective"]["tasks"] = {"again": {"type": "text-classification", **values["data"]}}
    result, _ = train(tmp_path, values)
    first, second = (delta_of(folder) for folder in result.adapters.values())
    assert any("pooler" in name for name in first) and first.keys() == second.keys()


def test_a_decoder_learns_to_write_and_to_classify_with_one_delta(tmp_path: Path, tiny_base: TinyBase) -> None:
    types = ("text-generation", "text-classification")
    result, _ = train(tmp_path, values_of(tiny_base("llama"), tmp_path, types))
    assert {"text-generation.perplexity", "text-classification.accuracy"} <= result.metrics.keys()
    assert result.fit.epochs[-1].loss < result.fit.epochs[0].loss


def test_a_run_that_is_stopped_goes_on_to_the_same_adapters(tmp_path: Path, tiny_base: TinyBase) -> None:
    values = values_of(tiny_base("bert"), tmp_path, sampling="temperature")
    whole, _ = train(tmp_path, values)
    again = values | {"output": str(tmp_path / "again")}
    watch = Watch()
    watch.wish.is_set = True
    with pytest.raises(TrainingStoppedError):
        train(tmp_path, again, watch)
    resumed, told = train(tmp_path, again)
    assert "resumed after step 1" in told
    assert contents(resumed) == contents(whole)


def contents(result: RunResult) -> list[bytes]:
    return [(folder / "adapter_model.safetensors").read_bytes() for folder in result.adapters.values()]


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ({}, [30, 16]),
        ({"sampling": "temperature", "temperature": 2.0}, [27, 19]),
        ({"sampling": "weights", "weight": 3.0}, [34, 12]),
    ],
)
def test_an_epoch_has_as_many_examples_of_a_task_as_the_sampling_says(
    tmp_path: Path, tiny_base: TinyBase, sampling: dict[str, Any], expected: list[int]
) -> None:
    types = ("text-classification", "token-classification")
    values = values_of(tiny_base("bert"), tmp_path, types, **sampling)
    values["data"]["validation"] = values["data"]["test"]
    further = values["objective"]["tasks"]["token-classification"]
    further["validation"] = further["test"]
    values["training"] |= {"epochs": 1, "batch_tokens": 1}
    train(tmp_path, values)
    steps = [line for line in read_log(tmp_path / "run" / "metrics.jsonl") if line["event"] == "step"]
    long = sum(line["tokens"] > LONGEST_TEXT for line in steps)
    assert [len(steps) - long, long] == expected, "each example is a step"


@pytest.mark.parametrize(
    ("change", "place", "told"),
    [
        (
            {"method": {"name": "head"}},
            "recipe.yaml",
            "multi-task shares a delta between tasks, and head has none",
        ),
        ({"method": {"name": "lora", "bias": "all"}}, "recipe.yaml", "not every task has pooler.dense"),
    ],
)
def test_what_cannot_be_shared_is_refused(
    tmp_path: Path, tiny_base: TinyBase, change: dict[str, Any], place: str, told: str
) -> None:
    with pytest.raises(InvalidRecipeError) as caught:
        train(tmp_path, values_of(tiny_base("bert"), tmp_path) | change)
    assert told in caught.value.problems[0] and caught.value.problems[0].startswith(place)


def test_wrong_further_tasks_are_all_told_with_their_lines(tmp_path: Path, tiny_base: TinyBase) -> None:
    values = values_of(tiny_base("bert"), tmp_path, ("text-classification",))
    values["objective"]["tasks"] = {
        "Not A Name": {"type": "text-classification", "train": "text-classification.jsonl"},
        "lost": {"type": "text-classification", "train": "nowhere.jsonl"},
    }
    with pytest.raises(InvalidRecipeError) as caught:
        train(tmp_path, values)
    told = "\n".join(caught.value.problems)
    assert "objective.tasks.lost.train: no such file or folder: nowhere.jsonl" in told and "Not A Name" in told

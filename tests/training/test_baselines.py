"""What a run's metrics stand beside: the most frequent answer, and a head alone on the frozen base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from multigraft_adapters.artifact import read_folder
from multigraft_adapters.bases import read_spec
from multigraft_adapters.verify import verify
from multigraft_training.run_folder import Watch
from tests.training.conftest import TinyBase
from tests.training.made import recipe_values, rows_of, train, write_jsonl

DRAWS = Watch(draws=True)
"""As the command runs."""


def values_of(base: Path, task_type: str, folder: Path, **more: Any) -> dict[str, Any]:
    write_jsonl(folder / "train.jsonl", rows_of(task_type, folder))
    return recipe_values(base, task_type, folder) | more


@pytest.mark.parametrize(
    ("model_type", "task_type"),
    [
        *(
            (name, "text-classification")
            for name in ("bert", "roberta", "distilbert", "modernbert", "llama", "gpt2")
        ),
        ("vit", "image-classification"),
        ("bert", "token-classification"),
        ("llama", "token-classification"),
        ("roberta", "question-answering"),
    ],
)
def test_a_head_on_kept_states_learns_what_the_method_head_learns(
    tmp_path: Path, tiny_base: TinyBase, model_type: str, task_type: str
) -> None:
    values = values_of(tiny_base(model_type), task_type, tmp_path, method={"name": "head"})
    values["training"].pop("learning_rate")
    values["training"]["base_dropout"] = 0.0
    if "classification" in task_type and task_type != "token-classification":
        values["objective"] = {"head_dropout": 0.0}
    plain, _ = train(tmp_path, values)
    method = {"name": "lora", "rank": 2}
    beside, told = train(
        tmp_path, values | {"method": method, "baselines": "all", "output": str(tmp_path / "beside")}
    )
    assert "a head alone is trained on the frozen base's states" in told
    found = {
        name.removeprefix("head_only_"): value
        for name, value in beside.metrics.items()
        if name.startswith("head_only_")
    }
    assert found == pytest.approx(
        {name: value for name, value in plain.metrics.items() if name in found}, abs=1e-5
    )
    assert found and "loss" not in found


def test_metrics_and_manifest_and_page_show_the_baselines(tmp_path: Path, tiny_base: TinyBase) -> None:
    base = tiny_base("bert")
    values = values_of(base, "text-classification", tmp_path)
    values["training"]["epochs"] = 6
    result, told = train(tmp_path, values, DRAWS)
    assert "baseline: head_only_accuracy" in told, "six epochs are worth it"
    assert result.metrics["majority_accuracy"] == pytest.approx(1 / 3)
    assert {"accuracy", "head_only_accuracy"} <= result.metrics.keys()
    manifest = verify(read_folder(result.folder / "adapter"), read_spec(base.name, base)).manifest
    assert manifest.metrics == result.metrics == json.loads((result.folder / "metrics.json").read_text())
    page = (result.folder / "run.html").read_text(encoding="utf-8")
    assert "<td>majority</td><td>head_only</td>" in page


def test_a_head_alone_is_left_out_where_it_costs_much_and_the_run_says_so(
    tmp_path: Path, tiny_base: TinyBase
) -> None:
    values = values_of(tiny_base("bert"), "text-classification", tmp_path)
    values["training"]["epochs"] = 1
    result, told = train(tmp_path, values, DRAWS)
    assert "a head alone would cost about" in told and "baselines=all" in told
    assert "majority_accuracy" in result.metrics and "head_only_accuracy" not in result.metrics


@pytest.mark.parametrize(
    ("wanted", "there"),
    [("none", set()), ("majority", {"majority_accuracy", "majority_macro_f1"})],
)
def test_a_recipe_says_which_baselines_it_wants(
    tmp_path: Path, tiny_base: TinyBase, wanted: str, there: set[str]
) -> None:
    values = values_of(tiny_base("bert"), "text-classification", tmp_path, baselines=wanted)
    result, _ = train(tmp_path, values, DRAWS)
    assert {name for name in result.metrics if name.startswith(("majority", "head_only"))} == there


def test_the_adapter_is_the_same_with_and_without_baselines(tmp_path: Path, tiny_base: TinyBase) -> None:
    values = values_of(tiny_base("llama"), "text-classification", tmp_path)
    for wanted in ("none", "all"):
        train(tmp_path, values | {"baselines": wanted, "output": str(tmp_path / wanted)})
    tensors = [(tmp_path / name / "adapter/adapter_model.safetensors").read_bytes() for name in ("none", "all")]
    assert tensors[0] == tensors[1]


@pytest.mark.parametrize("task_type", ["text-generation", "feature-extraction"])
def test_a_task_without_a_head_stands_beside_the_base_as_it_is(
    tmp_path: Path, tiny_base: TinyBase, task_type: str
) -> None:
    result, _ = train(tmp_path, values_of(tiny_base("llama"), task_type, tmp_path), DRAWS)
    assert result.metrics["base_loss"] > result.metrics["loss"]
    assert not [name for name in result.metrics if name.startswith(("majority", "head_only"))]


def test_tags_stand_beside_the_most_frequent_tag(tmp_path: Path, tiny_base: TinyBase) -> None:
    result, _ = train(tmp_path, values_of(tiny_base("bert"), "token-classification", tmp_path))
    assert result.metrics["majority_accuracy"] == 0.5 and result.metrics["majority_entity_f1"] == 0.0

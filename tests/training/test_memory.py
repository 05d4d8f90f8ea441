"""Gradient checkpointing, and what a training says of the memory that it takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from multigraft_adapters.errors import InvalidRecipeError
from multigraft_training import memory, run
from tests.training.conftest import TinyBase
from tests.training.made import CLASS_ROWS, recipe_values, train, write_jsonl


@pytest.mark.parametrize(("model_type", "method"), [("llama", "lora"), ("bert", "bottleneck")])
def test_gradient_checkpointing_trains_the_same(
    tmp_path: Path, tiny_base: TinyBase, model_type: str, method: str
) -> None:
    tensors, told = [], []
    for name, keeps_less in (("usual", False), ("less", True)):
        folder = tmp_path / name
        folder.mkdir()
        write_jsonl(folder / "train.jsonl", CLASS_ROWS)
        fields = {"epochs": 1, "gradient_checkpointing": keeps_less}
        values = recipe_values(tiny_base(model_type), "text-classification", folder, **fields)
        values["method"] = {"name": method}
        told.append(train(folder, values)[1])
        tensors.append(load_file(folder / "run/adapter/adapter_model.safetensors"))
    assert tensors[0]
    for key, tensor in tensors[0].items():
        torch.testing.assert_close(tensors[1][key], tensor, atol=1e-5, rtol=0)
    assert "memory: about" in told[0] and "at hand" in told[0]


def test_gradient_checkpointing_of_a_prefix_is_refused(tmp_path: Path, tiny_base: TinyBase) -> None:
    write_jsonl(tmp_path / "train.jsonl", CLASS_ROWS)
    values = recipe_values(tiny_base("bert"), "text-classification", tmp_path, gradient_checkpointing=True)
    values["method"] = {"name": "prefix"}
    with pytest.raises(
        InvalidRecipeError, match=r"recipe.yaml:\d+: training.gradient_checkpointing: prefix tuning"
    ):
        train(tmp_path, values)


def test_a_training_that_is_clearly_beyond_the_memory_is_refused_with_advice(
    tmp_path: Path, tiny_base: TinyBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jsonl(tmp_path / "train.jsonl", CLASS_ROWS)
    values = recipe_values(tiny_base("bert"), "text-classification", tmp_path)
    monkeypatch.setattr(run, "memory_at_hand", lambda device: 100_000)
    with pytest.raises(
        InvalidRecipeError, match=r"training would take about .* are at hand; give a smaller"
    ) as told:
        train(tmp_path, values)
    assert "training.gradient_checkpointing=true" in told.value.message
    assert "training.precision=bfloat16" in told.value.message


def test_the_system_says_how_much_memory_is_at_hand() -> None:
    found = memory.memory_at_hand(torch.device("cpu"))
    assert found is not None and 2**20 < found < 2**50

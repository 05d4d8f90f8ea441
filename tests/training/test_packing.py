"""Several examples in one row: the same losses and gradients as padded ones, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from multigraft_adapters.bases import load_tokenizer, read_spec
from multigraft_adapters.errors import InvalidRecipeError
from multigraft_training.batches import IGNORED, Batch, Encoded, make_batch
from multigraft_training.examples import CompletionExample
from multigraft_training.model import load_model
from multigraft_training.objectives.losses import weighted_loss
from multigraft_training.packing import make_packed, rows_of
from multigraft_training.recipe_methods import LoraPart
from multigraft_training.tasks import TaskSetup
from multigraft_training.tasks.generation import GenerationTask
from tests.tiny import DECODERS
from tests.training.conftest import TinyBase
from tests.training.made import CLASS_ROWS, recipe_values, train, write_jsonl
from tests.training.made import rows_of as made_rows

CPU = torch.device("cpu")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
"""Of a loss and of the largest gradient: the sums run in other orders."""


@pytest.mark.parametrize(
    ("model_type", "longest"),
    [*((name, 64) for name in DECODERS), ("llama", 1024), ("mistral", 1024), ("gpt2", 1024)],
)
def test_packed_rows_have_the_losses_and_gradients_of_padded_ones(
    tiny_base: TinyBase, model_type: str, longest: int
) -> None:
    padded, packed = both(tiny_base(model_type), torch.float32, longest)
    assert packed[0] == pytest.approx(padded[0], rel=TOLERANCE[torch.float32])
    assert (packed[1] - padded[1]).abs().max() <= TOLERANCE[torch.float32] * padded[1].abs().max()
    assert padded[1].abs().max() > 0


def test_packed_rows_have_them_in_bfloat16_too(tiny_base: TinyBase) -> None:
    padded, packed = both(tiny_base("llama"), torch.bfloat16, 64)
    assert packed[0] == pytest.approx(padded[0], rel=TOLERANCE[torch.bfloat16])


def both(base: Path, dtype: torch.dtype, longest: int) -> list[tuple[float, torch.Tensor]]:
    """The weighted loss and the gradient of all that is trained, padded and packed."""
    spec = read_spec(base.name, base)
    task = GenerationTask(TaskSetup(spec, load_tokenizer(base), 200))
    torch.manual_seed(3)
    model = load_model(base, spec, task, LoraPart(rank=4), device=CPU, dtype=dtype, longest=longest)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.1)
    model.eval()
    examples = encoded(task)
    found = []
    for batch in (make_batch(examples, 0, CPU), make_packed(examples, 0, CPU)):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = weighted_loss(task, task.scores(model, batch), batch)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [value.grad.flatten() for value in model.parameters() if value.grad is not None]
        found.append((loss.item(), torch.cat(gradients)))
    return found


def encoded(task: GenerationTask) -> list[Encoded]:
    """Ragged examples of different weights; the second is learnt from its first token on."""
    sizes = (3, 1, 17, 30, 2, 9)
    examples = [
        replace(task.encode(CompletionExample("p" * size, " answer"[: 2 + size % 5])), weight=1.0 + size % 3)
        for size in sizes
    ]
    examples[1] = replace(examples[1], targets=list(examples[1].input_ids))
    return examples


def test_rows_are_as_long_as_the_longest_example_and_hold_each_example_once() -> None:
    lengths = [9, 3, 30, 2, 17, 13, 1, 30]
    rows = rows_of(lengths)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert max(sum(lengths[index] for index in row) for row in rows) == 30 and len(rows) == 4


def test_a_packed_batch_tells_whose_each_token_is(tiny_base: TinyBase) -> None:
    spec = read_spec("tiny", tiny_base("llama"))
    examples = encoded(GenerationTask(TaskSetup(spec, load_tokenizer(tiny_base("llama")), 200)))
    batch: Batch = make_packed(examples, 0, CPU)
    assert batch.owners is not None and batch.positions is not None
    for number, one in enumerate(examples):
        own = (batch.owners == number) & (batch.targets != IGNORED)
        learnt = [target for target in one.targets[1:] if target != IGNORED]
        assert batch.targets[own].tolist() == learnt
    assert batch.input_ids.shape[0] < len(examples)


def test_a_packed_run_learns_and_leaves_an_artifact(tmp_path: Path, tiny_base: TinyBase) -> None:
    write_jsonl(tmp_path / "train.jsonl", made_rows("text-generation", tmp_path))
    values = recipe_values(tiny_base("llama"), "text-generation", tmp_path, epochs=6, packing=True)
    result, _ = train(tmp_path, values)
    assert result.fit.epochs[-1].loss < result.fit.epochs[0].loss and result.digest is not None


@pytest.mark.parametrize(
    ("task_type", "change", "told"),
    [
        ("text-classification", {}, "is for text-generation"),
        ("text-generation", {"method": {"name": "prefix"}}, "prefix puts virtual tokens before a row"),
        (
            "text-generation",
            {"objective": {"name": "distillation", "teacher": {"base": "smollm2"}}},
            "goes with the objective supervised, not distillation",
        ),
    ],
)
def test_what_cannot_be_packed_is_refused_with_the_reason(
    tmp_path: Path, tiny_base: TinyBase, task_type: str, change: dict[str, Any], told: str
) -> None:
    rows = CLASS_ROWS if task_type == "text-classification" else made_rows(task_type, tmp_path)
    write_jsonl(tmp_path / "train.jsonl", rows)
    values = recipe_values(tiny_base("llama"), task_type, tmp_path, packing=True)
    with pytest.raises(InvalidRecipeError) as caught:
        train(tmp_path, values | change)
    assert told in caught.value.problems[0] and "training.packing" in caught.value.problems[0]

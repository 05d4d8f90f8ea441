"""Task types beside plain text: what is learnt where, and that every family's heads are found and saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from multigraft_adapters.bases import load_image_processor, load_tokenizer, read_spec
from multigraft_adapters.bases.families import FAMILIES
from multigraft_adapters.errors import UnsupportedBaseError
from multigraft_training.batches import IGNORED, Encoded, make_batch
from multigraft_training.examples import Example, parse_row
from multigraft_training.export import RunFacts, check_exportable
from multigraft_training.model import load_model
from multigraft_training.recipe import RecipeTaskType
from multigraft_training.recipe_methods import LoraPart, MethodPart, PrefixPart, PromptPart
from multigraft_training.rows import Row
from multigraft_training.structured import GivenAnswer, QuestionExample, TaggedExample
from multigraft_training.structured_metrics import (
    answer_metrics,
    entities,
    retrieval_metrics,
    score_metrics,
    tag_metrics,
)
from multigraft_training.tasks import TaskSetup, TrainingTask, make_task
from multigraft_training.tasks.spans import Window
from tests.training.conftest import TinyBase
from tests.training.made import QUESTION_ROWS, SCORE_ROWS, TAG_ROWS, recipe_values, rows_of, train, write_jsonl

CPU = torch.device("cpu")
HEADS = [
    (model_type, task_type)
    for model_type, traits in FAMILIES.items()
    for task_type in (*traits.heads, *([] if traits.images else ["feature-extraction"]))
]


def task_on(base: Path, task_type: RecipeTaskType, max_length: int = 200) -> TrainingTask:
    spec = read_spec(base.name, base)
    reader = load_tokenizer(base) if spec.image is None else load_image_processor(base)
    labels = ("B-LOC", "B-PER", "O") if task_type == "token-classification" else ("dark", "light")
    length = max_length if spec.image is None else spec.max_length
    return make_task(task_type, TaskSetup(spec, reader, length, labels=labels))


def model_of(base: Path, task: TrainingTask, method: MethodPart) -> Any:
    torch.manual_seed(0)
    spec = read_spec(base.name, base)
    return load_model(base, spec, task, method, device=CPU, dtype=torch.float32, longest=200).eval()


def examples_of(rows: list[dict[str, Any]], task_type: RecipeTaskType, folder: Path) -> list[Example]:
    found = [parse_row(Row("row", row, folder), task_type, []) for row in rows]
    return [example for example in found if example is not None]


@pytest.mark.parametrize(("model_type", "task_type"), HEADS)
def test_every_familys_head_is_trained_and_saved_so_that_a_server_takes_it(
    model_type: str, task_type: RecipeTaskType, tiny_base: TinyBase
) -> None:
    base = tiny_base(model_type)
    task = task_on(base, task_type)
    model = model_of(base, task, LoraPart())
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for module in task.head_modules:
        assert any(f".{module}.modules_to_save." in name for name in trained), module
    spec = read_spec(base.name, base)
    facts = RunFacts(spec=spec, max_length=spec.max_length, data_hash="sha256:0", seed=0)
    check_exportable(model, task, facts)


def test_a_base_without_such_a_head_is_refused(tiny_base: TinyBase) -> None:
    refused: list[tuple[str, RecipeTaskType]] = [
        ("gemma", "question-answering"),
        ("vit", "text-classification"),
        ("vit", "feature-extraction"),
        ("bert", "image-classification"),
    ]
    for model_type, task_type in refused:
        with pytest.raises(UnsupportedBaseError):
            task_on(tiny_base(model_type), task_type)


METHODS: list[MethodPart] = [LoraPart(), PrefixPart(name="prefix"), PromptPart(name="prompt")]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("task_type", ["token-classification", "question-answering", "feature-extraction"])
@pytest.mark.parametrize("model_type", ["bert", "llama"])
def test_a_padded_batch_is_measured_as_its_rows_one_by_one(
    model_type: str, task_type: RecipeTaskType, method: MethodPart, tmp_path: Path, tiny_base: TinyBase
) -> None:
    rows = {
        "token-classification": TAG_ROWS,
        "question-answering": QUESTION_ROWS,
        "feature-extraction": SCORE_ROWS,
    }
    base = tiny_base(model_type)
    task = task_on(base, task_type)
    model = model_of(base, task, method)
    encoded = [task.encode(example) for example in examples_of(rows[task_type], task_type, tmp_path)[:4]]
    assert len({example.num_tokens for example in encoded}) > 1
    with torch.inference_mode():
        together = task.evaluate(model, [make_batch(encoded, 0, CPU)])
        alone = task.evaluate(model, [make_batch([example], 0, CPU) for example in encoded])
    assert together == pytest.approx(alone, abs=1e-5)


def test_a_words_tag_is_learnt_at_its_first_token_and_nowhere_else(tiny_base: TinyBase) -> None:
    task = task_on(tiny_base("bert"), "token-classification")
    encoded = task.encode(TaggedExample(("to", "Ada", "!"), ("O", "B-PER", "O")))
    # [CLS] t o _ A d a _ ! [SEP]
    assert encoded.targets == [IGNORED, 2, IGNORED, IGNORED, 1, IGNORED, IGNORED, IGNORED, 2, IGNORED]
    cut = task_on(tiny_base("bert"), "token-classification", max_length=7)
    encoded = cut.encode(TaggedExample(("to", "Ada", "!"), ("O", "B-PER", "O")))
    assert (encoded.is_cut, encoded.targets) == (True, [IGNORED, 2, IGNORED, IGNORED, 1, IGNORED, IGNORED])


def span_of(encoded: Encoded) -> str | None:
    """The text between the places that are learnt; empty for `[CLS]`, None for nothing."""
    start, end = (int(place) for place in encoded.targets)
    if start == IGNORED:
        return None
    window = encoded.about
    assert isinstance(window, Window)
    return window.example.context[window.text.offsets[start][0] : window.text.offsets[end][1]]


@pytest.mark.parametrize(("model_type", "without"), [("bert", ""), ("llama", None)])
def test_a_long_context_is_learnt_in_windows_those_without_the_answer_as_none(
    model_type: str, without: str | None, tiny_base: TinyBase
) -> None:
    context = "so " * 40 + "Ada" + " la" * 40
    example = QuestionExample("who?", context, (GivenAnswer("Ada", 120),))
    first = task_on(tiny_base(model_type), "question-answering", max_length=100).encode(example)
    windows = [first, *first.more]
    assert len(windows) > 2 and all(window.num_tokens <= 100 for window in windows)
    learnt = [span_of(window) for window in windows]
    assert "Ada" in learnt and set(learnt) == {"Ada", without}
    nothing = QuestionExample("who?", context, ())
    alone = task_on(tiny_base(model_type), "question-answering", max_length=100).encode(nothing)
    assert {span_of(window) for window in (alone, *alone.more)} == {without}
    no_room = task_on(tiny_base(model_type), "question-answering", max_length=8)
    lost = no_room.encode(QuestionExample("who is it?", context, ()))
    assert (lost.is_cut, lost.num_targets) == (True, 0)


def test_windows_are_counted_and_a_question_that_leaves_no_room_is_left_out(
    tmp_path: Path, tiny_base: TinyBase
) -> None:
    long = {**QUESTION_ROWS[0], "context": QUESTION_ROWS[0]["context"] + " la" * 30}
    wordy = {**QUESTION_ROWS[0], "question": "who " * 20}
    write_jsonl(tmp_path / "train.jsonl", [*QUESTION_ROWS, long, wordy])
    values = recipe_values(tiny_base("bert"), "question-answering", tmp_path, epochs=1, max_length=40)
    values["data"]["validation"] = "train.jsonl"
    _, told = train(tmp_path, values)
    assert "train: 1 of 18 examples were cut to training.max_length" in told
    assert "train: 18 examples are read in" in told
    assert "were left out, for nothing of their answers is in them" in told


def test_pairs_with_scores_are_learnt_by_their_cosine(tmp_path: Path, tiny_base: TinyBase) -> None:
    write_jsonl(tmp_path / "train.jsonl", SCORE_ROWS)
    values = recipe_values(tiny_base("bert"), "feature-extraction", tmp_path, epochs=6, learning_rate=1e-2)
    result, _ = train(tmp_path, values)
    assert list(result.metrics) == ["spearman", "pearson", "loss"]
    assert result.fit.epochs[-1].loss < result.fit.epochs[0].loss


@pytest.mark.parametrize("method", ["lora", "ia3", "bottleneck", "head", "full"])
def test_images_are_learnt_by_each_method_that_a_vit_serves(
    method: str, tmp_path: Path, tiny_base: TinyBase
) -> None:
    write_jsonl(tmp_path / "train.jsonl", rows_of("image-classification", tmp_path))
    values = recipe_values(tiny_base("vit"), "image-classification", tmp_path, epochs=4, learning_rate=1e-2)
    result, _ = train(tmp_path, {**values, "method": {"name": method}})
    assert result.metrics["accuracy"] > 0.9


def test_entities_are_runs_of_one_kind_and_whole_ones_are_counted() -> None:
    assert entities(["B-PER", "I-PER", "O", "B-LOC", "B-LOC", "I-PER"]) == {
        ("PER", 0, 1),
        ("LOC", 3, 3),
        ("LOC", 4, 4),
        ("PER", 5, 5),
    }
    truth = [["B-PER", "I-PER", "O"], ["B-LOC", "O"]]
    metrics = tag_metrics([["B-PER", "O", "O"], ["B-LOC", "O"]], truth, 2.5)
    assert metrics == {"entity_f1": 0.5, "precision": 0.5, "recall": 0.5, "accuracy": 0.8, "loss": 0.5}


def test_answers_are_compared_as_squad_compares_them() -> None:
    metrics = answer_metrics(
        ["The  Cat!", "black cat", "dog", ""], [["a cat"], ["cat", "black dog"], ["cat"], []], 0.25
    )
    assert metrics == {"exact_match": 0.5, "f1": pytest.approx((1 + 2 / 3 + 0 + 1) / 4, abs=1e-6), "loss": 0.25}


def test_pairs_are_ranked() -> None:
    assert score_metrics(torch.tensor([0.1, 0.2, 0.9]), torch.tensor([-1.0, 0.0, 0.1]))["spearman"] == 1.0
    left = torch.eye(3)
    metrics = retrieval_metrics(left, left[torch.tensor([0, 2, 1])], 1.0)
    assert (metrics["accuracy"], metrics["reciprocal_rank"]) == (0.333333, 0.666667)

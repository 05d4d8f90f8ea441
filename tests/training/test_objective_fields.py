"""What every objective's fields change of the loss: each against a plain computation."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch.nn import functional

from multigraft_adapters.bases import load_tokenizer, read_spec
from multigraft_adapters.errors import InvalidDataError, InvalidRecipeError
from multigraft_training.batches import Batch, make_batch
from multigraft_training.examples import CompletionExample, TextExample
from multigraft_training.model import load_model
from multigraft_training.objectives import Moment, set_head_dropout
from multigraft_training.objectives.augmentation import augmented, change
from multigraft_training.objectives.features import features_of, logits_of
from multigraft_training.objectives.losses import balanced_weights, given_weights, mixed_scores, weighted_loss
from multigraft_training.recipe_methods import LoraPart, MethodPart, PrefixPart, PromptPart
from multigraft_training.recipe_objectives import AugmentationPart
from multigraft_training.report import Report
from multigraft_training.tasks import TaskSetup
from multigraft_training.tasks.classification import ClassificationTask
from multigraft_training.tasks.generation import GenerationTask
from tests.training.conftest import TinyBase
from tests.training.made import CHAT_ROWS, CLASS_ROWS, recipe_values, rows_of, train, write_jsonl

CPU = torch.device("cpu")
TEXTS = ["good one", "bad", "so so then", "good"]
LABELS = ("mixed", "negative", "positive")


def classifier(base: Path, method: MethodPart, problem: Any = "single_label_classification") -> Any:
    """A classification task on a tiny base, and its model with a random head."""
    spec = read_spec(base.name, base)
    task = ClassificationTask(TaskSetup(spec, load_tokenizer(base), 200, labels=LABELS, problem=problem))
    torch.manual_seed(0)
    model = load_model(base, spec, task, method, device=CPU, dtype=torch.float32, longest=200).eval()
    return task, model


def batch_of(task: ClassificationTask, labels: list[Any], weights: list[float] | None = None) -> Batch:
    encoded = [task.encode(TextExample(text, None, label)) for text, label in zip(TEXTS, labels, strict=True)]
    batch = make_batch(encoded, 0, CPU)
    return Batch(
        **{name: getattr(batch, name) for name in Batch.__slots__} | {"weights": weights and torch.tensor(weights)}
    )


def test_weights_of_rows_and_classes_and_smoothed_labels_are_as_computed_by_hand(tiny_base: TinyBase) -> None:
    task, model = classifier(tiny_base("bert"), LoraPart())
    batch = batch_of(task, ["positive", "negative", "mixed", "positive"], [1.0, 0.5, 2.0, 0.0])
    class_weights = given_weights({"negative": 3.0}, LABELS)
    with torch.inference_mode():
        scores = task.scores(model, batch)
        found = weighted_loss(task, scores, batch, 0.2, class_weights)
        plain = weighted_loss(task, scores, batch_of(task, ["positive", "negative", "mixed", "positive"]))
        assert torch.equal(plain, task.loss(model, batch))
    expected = 0.0
    for row, (target, weight) in enumerate(zip([2, 1, 0, 2], [1.0, 0.5, 2.0, 0.0], strict=True)):
        logs = scores.logits[row].log_softmax(dim=0)
        wanted = [0.2 / 3 + (0.8 if k == target else 0.0) for k in range(3)]
        factor = weight * (3.0 if target == 1 else 1.0)
        expected -= factor * sum(share * float(log) for share, log in zip(wanted, logs, strict=True))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_labels_that_are_yes_or_no_are_smoothed_towards_a_half(tiny_base: TinyBase) -> None:
    task, model = classifier(tiny_base("bert"), LoraPart(), "multi_label_classification")
    batch = batch_of(task, [("positive",), (), ("mixed", "negative"), ("negative",)])
    with torch.inference_mode():
        scores = task.scores(model, batch)
        wanted = batch.targets * 0.9 + 0.05
        expected = functional.binary_cross_entropy(scores.logits.sigmoid(), wanted, reduction="sum")
        assert float(weighted_loss(task, scores, batch, 0.1)) == pytest.approx(float(expected), rel=1e-4)


def test_balanced_classes_count_the_same() -> None:
    targets = [0] * 6 + [1] * 3 + [2]
    weights = balanced_weights(targets, 3)
    sums = [float(weights[k]) * count for k, count in Counter(targets).items()]
    assert sums == pytest.approx([10 / 3] * 3) and sum(sums) == pytest.approx(len(targets))


def test_a_rows_weight_weighs_all_the_tokens_of_its_answer(tiny_base: TinyBase) -> None:
    base = tiny_base("llama")
    spec = read_spec(base.name, base)
    task = GenerationTask(TaskSetup(spec, load_tokenizer(base), 200))
    model = load_model(base, spec, task, LoraPart(), device=CPU, dtype=torch.float32, longest=200).eval()
    encoded = [task.encode(CompletionExample("say", answer)) for answer in (" a", " long one")]
    batch = make_batch(encoded, 0, CPU)
    weighed = Batch(batch.input_ids, batch.attention_mask, None, batch.targets, 2, torch.tensor([1.0, 0.25]))
    with torch.inference_mode():
        found = weighted_loss(task, task.scores(model, weighed), weighed)
        alone = [float(task.loss(model, make_batch([one], 0, CPU))) for one in encoded]
    assert float(found) == pytest.approx(alone[0] + 0.25 * alone[1], rel=1e-4)


@pytest.mark.parametrize("method", [LoraPart(), PromptPart(name="prompt"), PrefixPart(name="prefix")])
@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert", "llama", "gpt2"])
def test_the_heads_input_answers_as_the_model_does(
    model_type: str, method: MethodPart, tiny_base: TinyBase
) -> None:
    if (model_type, method.name) == ("distilbert", "prefix"):
        return
    task, model = classifier(tiny_base(model_type), method)
    batch = batch_of(task, ["positive", "negative", "mixed", "positive"])
    with torch.inference_mode():
        features, logits = features_of(model, task, batch)
        assert features.shape == (4, 32)
        torch.testing.assert_close(logits, task.logits(model, batch))
        torch.testing.assert_close(logits_of(model, task, features), logits, atol=1e-5, rtol=1e-5)


def test_mixed_rows_have_the_losses_of_both_their_labels(tiny_base: TinyBase) -> None:
    task, model = classifier(tiny_base("bert"), LoraPart())
    batch = batch_of(task, ["positive", "negative", "mixed", "positive"], [1.0, 0.5, 2.0, 1.0])
    moment = Moment(seed=3, step=7, micro=0, num_steps=9)
    with torch.inference_mode():
        mixed = mixed_scores(model, task, batch, 0.4, moment)
        found = sum(share * float(weighted_loss(task, scores, batch)) for share, scores in mixed)
        features, _ = features_of(model, task, batch)
    chooser = random.Random("3/7/0")
    share, order = chooser.betavariate(0.4, 0.4), [0, 1, 2, 3]
    chooser.shuffle(order)
    expected, targets, weights = 0.0, [2, 1, 0, 2], [1.0, 0.5, 2.0, 1.0]
    head = model.get_base_model().classifier
    for i, j in enumerate(order):
        logs = head(share * features[i] + (1 - share) * features[j]).log_softmax(dim=0).detach()
        expected -= share * weights[i] * float(logs[targets[i]]) + (1 - share) * weights[j] * float(
            logs[targets[j]]
        )
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert", "llama"])
def test_the_heads_dropout_is_the_recipes(model_type: str, tiny_base: TinyBase) -> None:
    task, model = classifier(tiny_base(model_type), LoraPart())
    batch = batch_of(task, ["positive"] * 4)
    kept = task.logits(model, batch)
    set_head_dropout(model, task, 0.999999)
    assert torch.equal(task.logits(model, batch), kept)
    model.train()
    features, _ = features_of(model, task, batch)
    assert not features.any()


WORDS = "the film was a very good one indeed and so on".split()
KNOWN = {"film": ["movie"], "good": ["great", "fine"]}


def test_each_operation_changes_its_share_of_the_words() -> None:
    chooser = random.Random(0)
    replaced = change(WORDS, "replace", 0.2, KNOWN, chooser)
    assert [new for old, new in zip(WORDS, replaced, strict=True) if old != new] in (
        ["movie", "great"],
        ["movie", "fine"],
    )
    inserted = change(WORDS, "insert", 0.3, KNOWN, chooser)
    assert len(inserted) == len(WORDS) + 3
    assert set((Counter(inserted) - Counter(WORDS)).elements()) <= {"movie", "great", "fine"}
    swapped = change(WORDS, "swap", 0.1, KNOWN, chooser)
    assert sorted(swapped) == sorted(WORDS) and sum(a != b for a, b in zip(swapped, WORDS, strict=True)) == 2
    kept = [len(change(WORDS, "delete", 0.25, {}, chooser)) / len(WORDS) for _ in range(400)]
    assert sum(kept) / len(kept) == pytest.approx(0.75, abs=0.03)
    assert change(["one"], "delete", 1.0, {}, chooser) == ["one"]
    assert change(WORDS, "replace", 0.5, {}, chooser) == change(WORDS, "insert", 0.5, {}, chooser) == WORDS


def test_fields_of_all_objectives_are_trained_with_and_told(tmp_path: Path, tiny_base: TinyBase) -> None:
    rows = [{**row, "weight": 0.5} for row in CLASS_ROWS]
    write_jsonl(tmp_path / "train.jsonl", rows)
    values = recipe_values(tiny_base("bert"), "text-classification", tmp_path, epochs=6, learning_rate=1e-2)
    values["objective"] = {
        "label_smoothing": 0.05,
        "class_weights": "balanced",
        "augmentation": {"copies": 2, "replace": 0, "insert": 0},
        "mixup": 0.2,
        "head_dropout": 0.1,
    }
    first, told = train(tmp_path, values)
    assert first.fit.epochs[-1].loss < first.fit.epochs[0].loss
    assert "train examples from 27" in told
    assert train(tmp_path, values)[0].digest == first.digest
    values["objective"]["augmentation"] = {"replace": 0.1}
    assert "augmentation: 0 of" in train(tmp_path, {**values, "training": {"epochs": 1}})[1]


def test_of_a_pair_each_copy_has_one_of_both_texts_changed() -> None:
    pair = TextExample("one two three four", "five six seven", "same")
    part = AugmentationPart(copies=16, replace=0, insert=0)
    found = augmented([pair], part, Path("no-base"), 0, Report(Console(quiet=True)))
    first, *copies = [one for one in found if isinstance(one, TextExample)]
    assert first == pair and {copy.label for copy in copies} == {"same"}
    changed = {(copy.text != pair.text, copy.text_pair != pair.text_pair) for copy in copies}
    assert changed == {(True, False), (False, True)}


def test_images_are_mixed_and_weighed_but_have_no_words_to_change(tmp_path: Path, tiny_base: TinyBase) -> None:
    write_jsonl(tmp_path / "train.jsonl", rows_of("image-classification", tmp_path))
    values = recipe_values(tiny_base("vit"), "image-classification", tmp_path, epochs=6)
    values["objective"] = {"mixup": 0.2, "class_weights": "balanced", "head_dropout": 0.1, "label_smoothing": 0.05}
    result, _ = train(tmp_path, values)
    assert result.fit.epochs[-1].loss < result.fit.epochs[0].loss
    with pytest.raises(InvalidRecipeError, match="objective.augmentation: images have no words to change"):
        train(tmp_path, {**values, "objective": {"augmentation": {}}})


WRONG = {
    "label_smoothing": (1.0, "objective.label_smoothing: Input should be less than 1"),
    "class_weights": ([1, 2], "objective.class_weights: must be balanced or a mapping"),
    "augmentation": (
        {"copies": 3, "cut": 0.1},
        "objective.augmentation.cut: unknown field; known: copies, replace",
    ),
    "mixup": (-1.0, "objective.mixup: Input should be greater than or equal to 0"),
}


@pytest.mark.parametrize("field", WRONG)
def test_a_wrong_field_is_told_with_its_line(field: str, tmp_path: Path, tiny_base: TinyBase) -> None:
    write_jsonl(tmp_path / "train.jsonl", CLASS_ROWS)
    values = recipe_values(tiny_base("bert"), "text-classification", tmp_path)
    values["objective"] = {field: WRONG[field][0]}
    with pytest.raises(InvalidRecipeError) as caught:
        train(tmp_path, values)
    (problem,) = caught.value.problems
    assert problem.startswith("recipe.yaml:") and WRONG[field][1] in problem


def test_fields_that_a_task_has_no_use_for_are_refused(tmp_path: Path, tiny_base: TinyBase) -> None:
    write_jsonl(tmp_path / "train.jsonl", CHAT_ROWS)
    values = recipe_values(tiny_base("llama"), "text-generation", tmp_path)
    fields: dict[str, Any] = {"class_weights": "balanced", "mixup": 0.1, "head_dropout": 0.1, "augmentation": {}}
    for field, value in fields.items():
        with pytest.raises(InvalidRecipeError, match=rf"recipe.yaml:\d+: objective.{field}: "):
            train(tmp_path, {**values, "objective": {field: value}})
    write_jsonl(tmp_path / "train.jsonl", CLASS_ROWS)
    values = recipe_values(tiny_base("bert"), "text-classification", tmp_path)
    with pytest.raises(InvalidRecipeError, match="objective.class_weights: neutral: no label of the data"):
        train(tmp_path, {**values, "objective": {"class_weights": {"neutral": 2, "mixed": 1}}})
    write_jsonl(tmp_path / "train.jsonl", [*CLASS_ROWS, {"text": "a", "label": "mixed", "weight": -1}])
    with pytest.raises(InvalidDataError) as caught:
        train(tmp_path, values)
    assert set(caught.value.problems) == {"train.jsonl:31: weight: -1 is not a number of at least 0"}

"""Objectives end to end on tiny random bases, and their formulas against plain computations."""

from __future__ import annotations

import math
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from multigraft_adapters.bases import load_tokenizer
from multigraft_adapters.errors import InvalidDataError, InvalidRecipeError, TrainingStoppedError
from multigraft_training.batches import IGNORED
from multigraft_training.objectives.continued import masked
from multigraft_training.objectives.distillation import soft_losses
from multigraft_training.objectives.mmd import squared_mmd
from multigraft_training.objectives.pseudo_labels import sure_ones
from multigraft_training.objectives.teacher import with_adapter
from multigraft_training.run_folder import Watch
from tests.training.conftest import TinyBase
from tests.training.made import CHAT_ROWS, CLASS_ROWS, recipe_values, train, write_jsonl
from tests.training.test_resume import AtStep

TEXTS = [{"text": f"{word} {i}"} for i in range(20, 30) for word in ("good", "bad", "so so")]


def values_of(base: Path, folder: Path, objective: dict[str, Any], **training: Any) -> dict[str, Any]:
    """A recipe whose data and unlabelled texts are written to the folder."""
    write_jsonl(folder / "train.jsonl", CLASS_ROWS)
    write_jsonl(folder / "more.jsonl", TEXTS)
    values = recipe_values(base, "text-classification", folder, **({"learning_rate": 1e-2} | training))
    values["data"]["unlabelled"] = "more.jsonl"
    return {**values, "objective": objective}


def test_the_discrepancy_of_two_samples_is_as_computed_pair_by_pair() -> None:
    chooser = torch.Generator().manual_seed(0)
    source, target = torch.randn(5, 3, generator=chooser), torch.randn(4, 3, generator=chooser) + 1
    rows = [*source.tolist(), *target.tolist()]
    distance = [[sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) for b in rows] for a in rows]
    apart = sorted(distance[i][j] for i in range(9) for j in range(9) if i != j)
    median = apart[(len(apart) - 1) // 2]

    def kernel(i: int, j: int) -> float:
        return sum(math.exp(-distance[i][j] / (median * factor)) for factor in (0.5, 1, 2)) / 3

    expected = sum(kernel(i, j) for i in range(5) for j in range(5)) / 25
    expected += sum(kernel(i, j) for i in range(5, 9) for j in range(5, 9)) / 16
    expected -= 2 * sum(kernel(i, j) for i in range(5) for j in range(5, 9)) / 20
    assert float(squared_mmd(source, target, 3)) == pytest.approx(expected, rel=1e-5)
    assert float(squared_mmd(source, source, 3)) == pytest.approx(0, abs=1e-6)
    assert float(squared_mmd(source, target + 5, 3)) > expected


def test_discrepancy_shrinks_when_it_is_trained_away(tmp_path: Path, tiny_base: TinyBase) -> None:
    values = values_of(tiny_base("bert"), tmp_path, {"name": "mmd", "weight": 0.5, "warmup": 0.2}, epochs=6)
    result, _ = train(tmp_path, values)
    assert result.fit.epochs[-1].loss < result.fit.epochs[0].loss
    plain, _ = train(tmp_path, {**values, "data": {"train": "train.jsonl"}, "objective": {"name": "supervised"}})
    other, _ = train(tmp_path, {**values, "objective": {"name": "mmd", "weight": 0.5, "warmup": 0}})
    assert len({result.digest, plain.digest, other.digest}) == 3
    assert train(tmp_path, values)[0].digest == result.digest


def test_sure_answers_are_taken_the_surest_first() -> None:
    probabilities = torch.tensor([[0.6, 0.4], [0.05, 0.95], [0.9, 0.1], [0.08, 0.92], [0.99, 0.01]])
    assert sure_ones(probabilities, 0.9, None) == {1: 1, 2: 0, 3: 1, 4: 0}
    assert sure_ones(probabilities, 0.9, 1) == {1: 1, 4: 0}
    assert sure_ones(probabilities, 1.0, None) == {}


def test_pseudo_labels_are_told_by_class_and_learnt_in_rounds(tmp_path: Path, tiny_base: TinyBase) -> None:
    objective = {"name": "pseudo-labels", "threshold": 0.5, "rounds": 2, "max_per_class": 7, "weight": 0.5}
    values = values_of(tiny_base("llama"), tmp_path, objective, epochs=8, early_stopping=None)
    result, told = train(tmp_path, values)
    for name in ("labelled rows", "round 1 of 2", "round 2 of 2"):
        assert f"stage: {name}" in told
    lines = re.findall(
        r"round \d: (\d+) of 30 unlabelled texts are taken: mixed (\d), negative (\d), positive (\d)", told
    )
    assert len(lines) == 2
    for total, *counts in lines:
        assert 0 < int(total) == sum(map(int, counts)) and max(map(int, counts)) <= 7
    assert result.metrics["accuracy"] > 0.5
    nobody, told = train(tmp_path, {**values, "objective": {**objective, "threshold": 1.0, "rounds": 1}})
    assert "round 1: 0 of 30 unlabelled texts are taken: mixed 0, negative 0, positive 0" in told
    plain, _ = train(
        tmp_path, {**values, "data": {"train": "train.jsonl", "test": "train.jsonl"}, "objective": {}}
    )
    assert [one.loss for one in nobody.fit.epochs] == pytest.approx([one.loss for one in plain.fit.epochs])


def test_unlabelled_data_are_for_the_objectives_that_use_them(tmp_path: Path, tiny_base: TinyBase) -> None:
    values = values_of(tiny_base("bert"), tmp_path, {"name": "supervised"})
    with pytest.raises(InvalidRecipeError) as caught:
        train(tmp_path, values)
    (problem,) = caught.value.problems
    assert problem.endswith("data.unlabelled: the objective 'supervised' uses no unlabelled data")
    assert problem.startswith("recipe.yaml:8: ")
    del values["data"]["unlabelled"]
    for name in ("mmd", "pseudo-labels"):
        with pytest.raises(InvalidRecipeError, match=f"data.unlabelled: the objective '{name}' needs texts"):
            train(tmp_path, {**values, "objective": {"name": name}})
    with pytest.raises(InvalidRecipeError, match="objective.name: the objectives are supervised, .*, not 'mmmd'"):
        train(tmp_path, {**values, "objective": {"name": "mmmd"}})
    with pytest.raises(InvalidRecipeError, match="objective.kernel: unknown field; did you mean kernels"):
        train(tmp_path, {**values, "objective": {"name": "mmd", "kernel": 3}})

    values["data"]["unlabelled"] = "more.jsonl"
    write_jsonl(tmp_path / "more.jsonl", [{"text": "fine"}, {"label": "bad"}])
    with pytest.raises(InvalidDataError) as failed:
        train(tmp_path, {**values, "objective": {"name": "mmd"}})
    assert failed.value.problems == ["more.jsonl:2: text: is missing"]


def test_objectives_for_classes_are_refused_for_other_tasks(tmp_path: Path, tiny_base: TinyBase) -> None:
    values = values_of(tiny_base("llama"), tmp_path, {"name": "mmd"})
    write_jsonl(tmp_path / "train.jsonl", CHAT_ROWS)
    values["task"]["type"] = "text-generation"
    with pytest.raises(InvalidRecipeError, match="objective.name: mmd is for text-classification"):
        train(tmp_path, values)
    write_jsonl(tmp_path / "train.jsonl", [{"text": f"{i}", "label": i} for i in range(20)])
    values["task"]["type"] = "text-classification"
    with pytest.raises(InvalidRecipeError, match="objective.name: pseudo-labels are for one class a row"):
        train(tmp_path, {**values, "objective": {"name": "pseudo-labels"}})


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification", "regression"])
def test_the_distance_from_softened_answers_is_as_computed_by_hand(problem: Any) -> None:
    chooser = torch.Generator().manual_seed(1)
    own, taught = (torch.randn(4, 3, generator=chooser) * 2 for _ in range(2))
    found = soft_losses(own, taught, 3.0, problem)
    assert found.shape == (4,)
    for row in range(4):
        if problem == "regression":
            expected = sum((float(a) - float(b)) ** 2 for a, b in zip(own[row], taught[row], strict=True))
        elif problem == "single_label_classification":
            p, q = ((one[row] / 3).softmax(dim=0).tolist() for one in (taught, own))
            expected = 9 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        else:
            p, q = ((one[row] / 3).sigmoid().tolist() for one in (taught, own))
            pairs = [pair for a, b in zip(p, q, strict=True) for pair in ((a, b), (1 - a, 1 - b))]
            expected = 9 * sum(a * math.log(a / b) for a, b in pairs)
        assert float(found[row]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["adapter", "adapter on another base", "model"])
def test_a_student_learns_from_a_teacher_what_no_label_says(
    kind: str, tmp_path: Path, tiny_base: TinyBase
) -> None:
    model_type = "llama" if kind == "adapter on another base" else "bert"
    values = values_of(tiny_base(model_type), tmp_path, {}, epochs=10, early_stopping=None)
    del values["data"]["unlabelled"]
    teacher, _ = train(tmp_path, {**values, "output": str(tmp_path / "teacher")})
    assert teacher.metrics["accuracy"] > 0.8
    place = {"adapter": str(tmp_path / "teacher" / "adapter")}
    if kind == "adapter on another base":
        place["base"] = str(tiny_base("llama"))
    if kind == "model":
        place = {"model": str(merged(tiny_base("bert"), tmp_path))}

    # The labels of the student's few rows are wrong, and it does not look at them: alpha is 1.
    values["base"] = str(tiny_base("bert"))
    turned = [{**row, "label": CLASS_ROWS[index + 1]["label"]} for index, row in enumerate(CLASS_ROWS[:9])]
    write_jsonl(tmp_path / "few.jsonl", turned)
    objective = {"name": "distillation", "teacher": place, "alpha": 1.0, "temperature": 2.0}
    data = {"train": "few.jsonl", "validation": "train.jsonl", "test": "train.jsonl", "unlabelled": "more.jsonl"}
    student, _ = train(tmp_path, {**values, "data": data, "objective": objective})
    assert student.metrics["accuracy"] > 0.6
    assert student.fit.epochs[-1].loss < 0.8 * student.fit.epochs[0].loss


def merged(base: Path, folder: Path) -> Path:
    """The teacher in `folder` as a whole fine-tuned model of transformers'."""
    labels = {0: "mixed", 1: "negative", 2: "positive"}
    names = {"id2label": labels, "label2id": {label: index for index, label in labels.items()}}
    model: Any = AutoModelForSequenceClassification.from_pretrained(base, **names)
    with_adapter(model, str(folder / "teacher" / "adapter")).merge_and_unload().save_pretrained(folder / "whole")
    load_tokenizer(base).save_pretrained(folder / "whole")
    return folder / "whole"


def test_a_writing_student_comes_closer_to_its_teacher(tmp_path: Path, tiny_base: TinyBase) -> None:
    write_jsonl(tmp_path / "train.jsonl", CHAT_ROWS)
    values = recipe_values(tiny_base("llama"), "text-generation", tmp_path, epochs=6, learning_rate=1e-2)
    values["data"] = {"train": "train.jsonl"}
    train(tmp_path, {**values, "output": str(tmp_path / "teacher")})
    teacher = {"adapter": str(tmp_path / "teacher" / "adapter")}
    objective = {"name": "distillation", "teacher": teacher, "alpha": 1.0, "temperature": 1.0}
    result, _ = train(tmp_path, {**values, "objective": objective})
    assert result.fit.epochs[-1].loss < 0.5 * result.fit.epochs[0].loss
    with pytest.raises(InvalidRecipeError, match="objective.teacher.base: its vocabulary is not the base's"):
        train(tmp_path, {**values, "objective": {**objective, "teacher": {"base": str(tiny_base("roberta"))}}})


def test_a_teacher_of_other_labels_or_kinds_is_refused(tmp_path: Path, tiny_base: TinyBase) -> None:
    values = values_of(tiny_base("bert"), tmp_path, {}, epochs=1)
    del values["data"]["unlabelled"]
    train(tmp_path, {**values, "output": str(tmp_path / "teacher")})
    write_jsonl(tmp_path / "train.jsonl", CLASS_ROWS[:2] * 8)
    adapter = str(tmp_path / "teacher" / "adapter")
    wrong: dict[str, Any] = {
        "adapter: its labels are mixed, negative, positive, the data's negative, positive": {"adapter": adapter},
        "base: a base alone does not classify": {"base": str(tiny_base("bert"))},
        "model: stands alone": {"model": "x", "base": "y"},
        "adapter: name the teacher": {},
        "adapter: no such folder: nowhere; train the teacher first": {"adapter": "nowhere"},
    }
    for said, teacher in wrong.items():
        with pytest.raises(InvalidRecipeError, match=f"objective.teacher.{said}"):
            train(tmp_path, {**values, "objective": {"name": "distillation", "teacher": teacher}})
    with pytest.raises(InvalidRecipeError, match="objective.mixup: a mixed text has no answer"):
        objective = {"name": "distillation", "teacher": {"adapter": adapter}, "mixup": 0.1}
        train(tmp_path, {**values, "objective": objective})


def test_masked_tokens_are_asked_for_and_mostly_hidden(tiny_base: TinyBase) -> None:
    tokenizer = load_tokenizer(tiny_base("bert"))
    ids = torch.full((40, 50), 65)
    targets = ids.clone()
    targets[:, 0] = IGNORED
    changed, asked = masked(ids, targets, 0.15, tokenizer, random.Random(0))
    chosen = asked != IGNORED
    assert int(chosen.sum()) == round(0.15 * 40 * 49) and not chosen[:, 0].any()
    assert torch.equal(asked[chosen], ids[chosen]) and torch.equal(changed[~chosen], ids[~chosen])
    hidden = (changed[chosen] == tokenizer.mask_token_id).float().mean()
    kept = (changed[chosen] == 65).float().mean()
    assert float(hidden) == pytest.approx(0.8, abs=0.06) and float(kept) == pytest.approx(0.1, abs=0.05)


@pytest.mark.parametrize("model_type", ["bert", "llama"])
def test_the_language_of_the_texts_is_learnt_before_their_labels(
    model_type: str, tmp_path: Path, tiny_base: TinyBase
) -> None:
    objective = {"name": "continued", "epochs": 5, "mask": 0.3}
    values = values_of(tiny_base(model_type), tmp_path, objective, epochs=2)
    result, told = train(tmp_path, values)
    assert "stage: language modelling" in told
    assert ("begun at random, and trained" in told) == (model_type == "bert")
    losses = [float(loss) for loss in re.findall(r"epoch \d/5  loss (\d+\.\d+)", told)]
    assert len(losses) >= 3 and losses[-1] < losses[0]
    assert len(result.fit.epochs) == 2
    with pytest.raises(InvalidRecipeError, match="method.name: continued goes with lora, ia3, bottleneck"):
        train(tmp_path, {**values, "method": {"name": "prefix"}})


@pytest.mark.parametrize(
    ("objective", "first_stage"),
    [
        ({"name": "pseudo-labels", "threshold": 0.4}, "labelled rows"),
        ({"name": "continued", "epochs": 2}, "language modelling"),
        ({"name": "mmd", "mixup": 0.2}, ""),
    ],
)
def test_an_objective_that_is_stopped_anywhere_goes_on_to_the_same_result(
    objective: dict[str, Any], first_stage: str, tmp_path: Path, tiny_base: TinyBase
) -> None:
    settings = {"epochs": 2, "batch_tokens": 40, "checkpoint_seconds": 0, "early_stopping": None}
    values = values_of(tiny_base("bert"), tmp_path, objective, **settings)
    whole, told = train(tmp_path, values)
    assert not first_stage or f"stage: {first_stage}" in told
    values["output"] = str(tmp_path / "stopped")
    # Once in the first stage, and once in the last.
    for step in (2, 7):
        with pytest.raises(TrainingStoppedError):
            train(tmp_path, values, Watch(wish=AtStep(step, lambda: True)))
    result, told = train(tmp_path, values)
    assert "resumed after step" in told
    assert result.digest == whole.digest and result.fit == whole.fit

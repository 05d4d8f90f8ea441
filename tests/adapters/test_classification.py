"""Classification heads: problem types, thresholds, and the layers that families put before the output."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

from multigraft_adapters.bases import read_spec
from multigraft_adapters.errors import InvalidAdapterError
from multigraft_adapters.heads import LinearHead, decode_classification
from multigraft_adapters.manifest import Manifest
from multigraft_adapters.verify import TaskDeclaration, VerifiedAdapter, verify
from tests.adapters.made import LABELS, SPEC, Parts, TinyBase, classification_parts, peft_model, saved
from tests.tiny import tiny_config, tiny_tokenizer


def verified(parts: Parts, **declared: Any) -> VerifiedAdapter:
    parts.manifest = None
    return verify(parts.files(), SPEC, declaration=TaskDeclaration(**declared))


def one_output() -> Parts:
    parts = classification_parts()
    parts.tensors["base_model.model.score.weight"] = torch.ones(1, 8)
    return parts


@pytest.mark.parametrize(
    ("declared", "problem_type", "activation"),
    [
        ({}, "single_label_classification", "softmax"),
        ({"activation": "sigmoid"}, "multi_label_classification", "sigmoid"),
        ({"activation": "none"}, "single_label_classification", "none"),
        ({"problem_type": "multi_label_classification"}, "multi_label_classification", "sigmoid"),
        ({"problem_type": "single_label_classification"}, "single_label_classification", "softmax"),
    ],
)
def test_problem_type_and_activation_complete_each_other(
    declared: dict[str, Any], problem_type: str, activation: str
) -> None:
    manifest = verified(classification_parts(), id2label=LABELS, **declared).manifest
    assert (manifest.problem_type, manifest.head.activation) == (problem_type, activation)


@pytest.mark.parametrize("declared", [{"problem_type": "regression"}, {"activation": "none"}])
def test_a_regression_has_one_number(declared: dict[str, Any]) -> None:
    adapter = verified(one_output(), id2label={0: "stars"}, **declared)
    assert (adapter.manifest.problem_type, adapter.manifest.head.activation) == ("regression", "none")
    logits = adapter.head.forward(torch.ones(1, 8))[0].numpy()
    assert decode_classification(logits, {0: "stars"}, "none") == [{"label": "stars", "score": 8.0}]


def test_a_regression_without_a_name_for_its_number_is_named_as_transformers_names_it() -> None:
    assert verified(one_output(), problem_type="regression").manifest.id2label == {0: "LABEL_0"}


def test_a_regression_that_would_be_squashed_is_refused() -> None:
    with pytest.raises(InvalidAdapterError, match="regression has 'none', not 'sigmoid'"):
        verified(one_output(), id2label={0: "stars"}, problem_type="regression", activation="sigmoid")


def test_a_regression_of_several_numbers_is_refused() -> None:
    with pytest.raises(InvalidAdapterError, match="a regression has one label"):
        verified(classification_parts(), id2label=LABELS, problem_type="regression")


@pytest.mark.parametrize(
    ("declared", "problem"),
    [
        ({"problem_type": "multi_label_classification", "activation": "softmax"}, "has 'sigmoid', not 'softmax'"),
        ({"thresholds": {"billing": 0.5}}, "only a multi-label classification has them"),
        ({"activation": "sigmoid", "thresholds": {"rude": 0.5}}, "'rude' is not in id2label"),
    ],
)
def test_what_does_not_go_together_is_refused(declared: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidAdapterError, match=problem):
        verified(classification_parts(), id2label=LABELS, **declared)


@pytest.mark.parametrize("threshold", [-0.1, 1.1])
def test_a_threshold_outside_0_to_1_is_refused(threshold: float) -> None:
    parts = classification_parts()
    assert parts.manifest is not None
    parts.manifest["head"] |= {"activation": "sigmoid", "thresholds": {"billing": threshold}}
    with pytest.raises(InvalidAdapterError, match=r"head.thresholds.billing: Input should be"):
        verify(parts.files(), SPEC)


def test_thresholds_of_another_task_type_are_refused() -> None:
    fields = {"task_type": "text-generation", "method": {"name": "lora"}}
    with pytest.raises(ValueError, match="only a multi-label classification has them"):
        Manifest.model_validate(fields | {"head": {"kind": "generation", "thresholds": {"a": 0.5}}})


def test_a_label_below_its_threshold_is_left_out() -> None:
    logits = torch.tensor([0.0, 2.0, -2.0]).numpy()
    decoded = decode_classification(logits, LABELS, "sigmoid", thresholds={"billing": 0.5, "other": 0.2})
    assert [entry["label"] for entry in decoded] == ["shipping", "billing"]
    assert decode_classification(logits, LABELS, "sigmoid", thresholds={"shipping": 1.0}, top_k=1) == [
        {"label": "billing", "score": 0.5}
    ]


FAMILY_MODULES = {"roberta": ["query", "dense"], "distilbert": ["q_lin"], "modernbert": ["Wqkv"]}


@pytest.mark.parametrize("family", FAMILY_MODULES)
def test_the_layers_before_the_output_are_read_and_computed(
    bases: dict[str, TinyBase], tmp_path: Path, family: str
) -> None:
    base = bases[family]
    saved_modules = ["classifier", "head"] if family == "modernbert" else None
    config = LoraConfig(
        task_type="SEQ_CLS", target_modules=FAMILY_MODULES[family], r=2, modules_to_save=saved_modules
    )
    model = peft_model(base, config)
    adapter = verify(saved(model, tmp_path), base.spec, declaration=TaskDeclaration(id2label=LABELS))
    head = adapter.head
    assert isinstance(head, LinearHead) and head.hidden is not None
    assert head.spec.pooling == "cls"
    assert head.nbytes == sum(
        4 * rows * (columns[0] if columns else 1) for rows, *columns in head.spec.shapes.values()
    )
    tokens = torch.tensor([[9, 40, 41, 42, 43]])
    task_model: Any = model.get_base_model()
    with torch.no_grad():
        first = task_model.base_model(tokens).last_hidden_state[:, 0]
        torch.testing.assert_close(head.to("cpu").forward(first), model(tokens).logits, atol=1e-5, rtol=1e-5)


def test_a_head_whose_layers_before_the_output_nobody_saved_is_refused_with_the_reason(
    bases: dict[str, TinyBase], tmp_path: Path
) -> None:
    base = bases["modernbert"]
    model = peft_model(base, LoraConfig(task_type="SEQ_CLS", target_modules=["Wqkv"], r=2))
    with pytest.raises(InvalidAdapterError) as refused:
        verify(saved(model, tmp_path), base.spec, declaration=TaskDeclaration(id2label=LABELS))
    assert refused.value.problems == [
        f"the head is missing: no tensor 'base_model.model.head.{name}.weight', "
        "and the base's checkpoint has none; PEFT saves it where modules_to_save names 'head'"
        for name in ("dense", "norm")
    ]


def test_layers_before_the_output_may_be_the_base_s_own(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(encoder=True)
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(tiny_config("modernbert", len(tokenizer))).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    spec = read_spec("tiny", tmp_path / "base")
    task_model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=len(LABELS))
    model: Any = get_peft_model(task_model, LoraConfig(task_type="SEQ_CLS", target_modules=["Wqkv"], r=2)).eval()
    adapter = verify(saved(model, tmp_path / "it"), spec, declaration=TaskDeclaration(id2label=LABELS))
    tokens = torch.tensor([[9, 40, 41, 42, 43]])
    with torch.no_grad():
        first = model.get_base_model().model(tokens).last_hidden_state[:, 0]
        torch.testing.assert_close(adapter.head.forward(first), model(tokens).logits, atol=1e-5, rtol=1e-5)


def test_a_head_under_both_of_peft_s_names_is_refused() -> None:
    parts = classification_parts()
    parts.tensors["base_model.score.weight"] = torch.ones(3, 8)
    with pytest.raises(InvalidAdapterError, match="the head has both"):
        verify(parts.files(), SPEC)


def test_a_task_that_the_family_has_no_model_for_is_refused() -> None:
    with pytest.raises(InvalidAdapterError, match="transformers has no text-classification model of type 'llama'"):
        verify(classification_parts().files(), dataclasses.replace(SPEC, heads={}))


def test_only_the_head_may_be_saved_whole() -> None:
    parts = classification_parts()
    parts.config["modules_to_save"] = ["score", "embed_tokens"]
    with pytest.raises(InvalidAdapterError, match="only a head can be saved, not 'embed_tokens'"):
        verify(parts.files(), SPEC)

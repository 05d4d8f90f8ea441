"""Heads: read from PEFT's files, computed as transformers computes them, decoded to the answer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig

from multigraft_adapters.errors import InvalidAdapterError, InvalidRequestError
from multigraft_adapters.heads import (
    HEAD_KINDS,
    EmbeddingHead,
    GenerationHead,
    HeadKind,
    LinearHead,
    decode_classification,
    decode_embedding,
    register,
)
from multigraft_adapters.heads.classification import ACTIVATIONS
from multigraft_adapters.manifest import Activation, HeadSpec
from multigraft_adapters.verify import TaskDeclaration, verify
from tests.adapters.made import LABELS, SPEC, TinyBase, classification_parts, generation_parts, peft_model, saved

MODULES = {"bert": ["query"], "gpt2": ["c_attn"], "llama": ["q_proj"], "qwen2": ["q_proj"]}


@pytest.mark.parametrize("family", list(MODULES))
def test_a_classification_head_computes_what_the_peft_model_computes(
    bases: dict[str, TinyBase], tmp_path: Path, family: str
) -> None:
    base = bases[family]
    config = LoraConfig(
        task_type="SEQ_CLS", target_modules=MODULES[family], fan_in_fan_out=family == "gpt2", r=2, lora_alpha=2
    )
    model = peft_model(base, config)
    adapter = verify(saved(model, tmp_path), base.spec, declaration=TaskDeclaration(id2label=LABELS))

    task_model: Any = model.get_base_model()
    tokens = torch.tensor([[9, 40, 41, 42, 43]])
    with torch.no_grad():
        states = task_model.base_model(tokens)
        expected = model(tokens).logits
    encoder = base.spec.family == "encoder"
    pooled = states.pooler_output if encoder else states.last_hidden_state[:, -1]
    assert isinstance(adapter.head, LinearHead)
    assert adapter.head.spec.pooling == ("pooler" if encoder else "last")
    assert (adapter.head.bias is not None) == encoder
    torch.testing.assert_close(adapter.head.to("cpu").forward(pooled), expected, atol=1e-5, rtol=1e-5)


def test_a_head_computes_in_fp32_whatever_it_is_stored_and_given_in() -> None:
    parts = classification_parts()
    parts.tensors["base_model.model.score.weight"] = torch.randn(3, 8).bfloat16()
    adapter = verify(parts.files(), SPEC)
    assert isinstance(adapter.head, LinearHead)
    assert adapter.head.weight.dtype == torch.float32
    assert adapter.head.forward(torch.ones(2, 8, dtype=torch.bfloat16)).dtype == torch.float32
    assert adapter.head.nbytes == 3 * 8 * 4


def test_an_embedding_head_is_mean_pooled_and_normalised_unless_it_is_said_otherwise() -> None:
    parts = generation_parts()
    parts.config["task_type"] = "FEATURE_EXTRACTION"
    usual = verify(parts.files(), SPEC).head
    said = verify(parts.files(), SPEC, declaration=TaskDeclaration(pooling="cls", normalize=False)).head
    assert isinstance(usual, EmbeddingHead) and isinstance(said, EmbeddingHead)
    assert (usual.spec.pooling, usual.spec.normalize) == ("mean", True)
    assert (said.spec.pooling, said.spec.normalize) == ("cls", False)

    states = torch.tensor([[3.0, 4.0]])
    torch.testing.assert_close(usual.forward(states), torch.tensor([[0.6, 0.8]]))
    torch.testing.assert_close(said.forward(states), states)
    vector = decode_embedding(usual.to("cpu").forward(states)[0].numpy())
    assert vector == pytest.approx([0.6, 0.8]) and all(type(number) is float for number in vector)


def test_a_generation_head_leaves_the_answer_to_the_bases_own_output_head() -> None:
    head = verify(generation_parts().files(), SPEC).head
    assert isinstance(head, GenerationHead)
    assert head.spec == HeadSpec(kind="generation")
    assert head.nbytes == 0
    torch.testing.assert_close(head.to("cpu").forward(torch.ones(2, 8)), torch.ones(2, 8))


LOGITS = np.array([1.0, 3.0, -2.0], dtype=np.float32)
SOFTMAX = [math.exp(x) / sum(map(math.exp, (1.0, 3.0, -2.0))) for x in (1.0, 3.0, -2.0)]
SIGMOID = [1 / (1 + math.exp(-x)) for x in (1.0, 3.0, -2.0)]


@pytest.mark.parametrize(
    ("activation", "override", "expected"),
    [
        ("softmax", None, SOFTMAX),
        ("sigmoid", None, SIGMOID),
        ("none", None, [1.0, 3.0, -2.0]),
        (None, None, SOFTMAX),
        ("softmax", "none", [1.0, 3.0, -2.0]),
        ("none", "sigmoid", SIGMOID),
        ("sigmoid", "softmax", SOFTMAX),
    ],
)
def test_scores_are_the_activations_best_first(
    activation: Activation | None, override: str | None, expected: list[float]
) -> None:
    decoded = decode_classification(LOGITS, LABELS, activation, function_to_apply=override)
    assert [entry["label"] for entry in decoded] == ["shipping", "billing", "other"]
    assert [entry["score"] for entry in decoded] == pytest.approx([expected[1], expected[0], expected[2]])
    assert all(type(entry["score"]) is float for entry in decoded)


@pytest.mark.parametrize(("top_k", "count"), [(None, 3), (1, 1), (2, 2), (99, 3)])
def test_top_k_keeps_the_best(top_k: int | None, count: int) -> None:
    decoded = decode_classification(LOGITS, LABELS, "softmax", top_k=top_k)
    assert [entry["label"] for entry in decoded] == ["shipping", "billing", "other"][:count]


def test_equal_scores_come_in_the_order_of_their_ids() -> None:
    decoded = decode_classification(np.zeros(3, dtype=np.float32), LABELS, "sigmoid")
    assert [entry["label"] for entry in decoded] == ["billing", "shipping", "other"]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_extreme_logits_give_finite_scores(activation: Activation) -> None:
    extreme = np.array([3e38, -3e38, 0.0], dtype=np.float32)
    scores = [entry["score"] for entry in decode_classification(extreme, LABELS, activation)]
    assert all(math.isfinite(score) for score in scores)


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({"function_to_apply": "exp"}, "parameters.function_to_apply"),
        ({"top_k": 0}, "parameters.top_k"),
        ({"top_k": True}, "parameters.top_k"),
        ({"top_k": 1.5}, "parameters.top_k"),
    ],
)
def test_wrong_parameters_are_the_callers_mistake(parameters: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        decode_classification(LOGITS, LABELS, "softmax", **parameters)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("name", "tensor", "problem"),
    [
        ("score.weight", None, "the head is missing: no tensor 'base_model.model.score.weight'"),
        ("score.weight", torch.ones(3, 9), r"shape \[3, 9\], not \[labels, 8\]"),
        ("score.weight", torch.ones(8), r"shape \[8\], not \[labels, 8\]"),
        ("score.weight", torch.ones(4, 8), "the head has 4 labels, id2label has 3"),
        ("score.bias", torch.ones(3), "tensors that nothing uses: 'base_model.model.score.bias'"),
        ("classifier.weight", torch.ones(3, 8), "nothing uses: 'base_model.model.classifier.weight'"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(name: str, tensor: torch.Tensor | None, problem: str) -> None:
    parts = classification_parts()
    del parts.tensors["base_model.model.score.weight"]
    if name != "score.weight":
        parts.tensors["base_model.model.score.weight"] = torch.ones(3, 8)
    if tensor is not None:
        parts.tensors[f"base_model.model.{name}"] = tensor
    with pytest.raises(InvalidAdapterError, match=problem):
        verify(parts.files(), SPEC)


@pytest.mark.parametrize(
    ("head", "problem"),
    [
        ({"pooling": "mean"}, "head.pooling: a head of kind 'classification' reads the state 'last'"),
        ({"normalize": True}, "head.normalize: a head of kind 'classification' has none"),
        ({"shapes": {"weight": [4, 8]}}, r"head.shapes: task.json says \{'weight': \[4, 8\]\}"),
        ({"kind": "spans"}, "head.kind: the task type text-classification says 'classification'"),
        ({"activation": "relu"}, "head.activation: Input should be 'softmax', 'sigmoid' or 'none'"),
    ],
)
def test_a_manifest_that_describes_another_head_is_refused(head: dict[str, Any], problem: str) -> None:
    parts = classification_parts()
    assert parts.manifest is not None
    parts.manifest["head"] |= head
    with pytest.raises(InvalidAdapterError, match=problem):
        verify(parts.files(), SPEC)


def test_a_head_of_one_label_must_say_what_its_number_means() -> None:
    parts = classification_parts()
    parts.manifest = None
    parts.tensors["base_model.model.score.weight"] = torch.ones(1, 8)
    with pytest.raises(InvalidAdapterError, match="head.activation: with one label, say"):
        verify(parts.files(), SPEC, declaration=TaskDeclaration(id2label={0: "spam"}))
    head = verify(
        parts.files(), SPEC, declaration=TaskDeclaration(id2label={0: "spam"}, activation="sigmoid")
    ).head
    assert head.spec.activation == "sigmoid"


def test_the_registry_refuses_a_second_head_of_a_kind_or_a_task_type_and_a_bad_name() -> None:
    embedding = HEAD_KINDS["embedding"]
    for kind in (
        embedding,
        HeadKind("vectors", ("feature-extraction",), (), embedding.read),
        HeadKind("Vectors", (), (), embedding.read),
    ):
        with pytest.raises(ValueError, match="already registered|not a head kind's name"):
            register(kind)
    assert sorted(HEAD_KINDS) == ["classification", "embedding", "generation", "images", "spans", "tokens"]
    with pytest.raises(KeyError, match="there are classification, embedding, generation, images, spans, tokens"):
        HEAD_KINDS["waves"]

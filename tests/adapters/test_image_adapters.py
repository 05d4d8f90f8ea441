"""Adapters of image bases as PEFT writes them: what is read, and what is refused with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageClassification

from multigraft_adapters.errors import InvalidAdapterError
from multigraft_adapters.verify import TaskDeclaration, VerifiedAdapter, load, verify
from tests.adapters.made import LABELS, TinyBase, saved

IMAGES = {"task_type": "image-classification"}


@pytest.fixture(scope="module")
def files(bases: dict[str, TinyBase], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, bytes]:
    """What PEFT saves of a LoRA classifier on a tiny ViT."""
    model = AutoModelForImageClassification.from_pretrained(bases["vit"].folder, num_labels=len(LABELS))
    config = LoraConfig(r=4, target_modules=["q_proj", "fc1"], modules_to_save=["classifier"])
    return saved(get_peft_model(model, config), tmp_path_factory.mktemp("adapter"))


def verified(files: Mapping[str, bytes], base: TinyBase, **declared: Any) -> VerifiedAdapter:
    return verify(files, base.spec, declaration=TaskDeclaration(**declared))


def test_a_classifier_of_images_reads_the_class_token_s_state(
    files: Mapping[str, bytes], bases: dict[str, TinyBase]
) -> None:
    adapter = verified(files, bases["vit"], **IMAGES, id2label=LABELS)
    manifest = adapter.manifest
    assert (manifest.task_type, manifest.problem_type) == ("image-classification", "single_label_classification")
    assert (manifest.head.kind, manifest.head.pooling, manifest.head.activation) == ("images", "cls", "softmax")
    assert adapter.head.forward(torch.ones(2, 32)).shape == (2, len(LABELS))
    again = load(adapter.files, adapter.digest, bases["vit"].spec)
    assert torch.equal(again.head.forward(torch.ones(1, 32)), adapter.head.forward(torch.ones(1, 32)))


def test_several_labels_for_one_image_may_have_thresholds(
    files: Mapping[str, bytes], bases: dict[str, TinyBase]
) -> None:
    several = {"problem_type": "multi_label_classification", "thresholds": {"billing": 0.5}}
    head = verified(files, bases["vit"], **IMAGES, id2label=LABELS, **several).manifest.head
    assert (head.activation, head.thresholds) == ("sigmoid", {"billing": 0.5})


@pytest.mark.parametrize(
    ("declared", "problem"),
    [
        ({"id2label": LABELS}, "the task type is unknown"),
        (IMAGES, "the head has 3 labels without names"),
        (IMAGES | {"id2label": {0: "one"}}, "the head has 3 labels, id2label has 1"),
        (
            IMAGES | {"id2label": LABELS, "pooling": "mean"},
            "head.pooling: a head of kind 'images' reads the state 'cls'",
        ),
        (IMAGES | {"id2label": LABELS, "max_length": 5}, "every image has the same length, 10"),
        (IMAGES | {"id2label": LABELS, "max_length": 11}, "11 is more than the base's 10"),
        (IMAGES | {"id2label": LABELS, "prompt": "a"}, "only a text-generation task"),
        ({"task_type": "text-classification", "id2label": LABELS}, "no text-classification model of type 'vit'"),
        ({"task_type": "token-classification", "id2label": LABELS}, "no token-classification model"),
        ({"task_type": "question-answering"}, "no question-answering model"),
        ({"task_type": "text-generation"}, "text-generation needs a decoder"),
        ({"task_type": "feature-extraction"}, "embeds texts, and the base 'tiny-vit' reads images"),
    ],
)
def test_what_an_image_base_cannot_answer_is_refused_with_the_reason(
    files: Mapping[str, bytes], bases: dict[str, TinyBase], declared: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InvalidAdapterError, match=problem):
        verified(files, bases["vit"], **declared)


def test_a_classifier_without_its_head_is_refused(bases: dict[str, TinyBase], tmp_path: Path) -> None:
    model = AutoModelForImageClassification.from_pretrained(bases["vit"].folder, num_labels=len(LABELS))
    files = saved(get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])), tmp_path)
    with pytest.raises(InvalidAdapterError, match="the head is missing"):
        verified(files, bases["vit"], **IMAGES, id2label=LABELS)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_text_base_classifies_no_images(
    files: Mapping[str, bytes], bases: dict[str, TinyBase], family: str
) -> None:
    with pytest.raises(InvalidAdapterError, match=f"no image-classification model of type '{family}'"):
        verified(files, bases[family], **IMAGES, id2label=LABELS)

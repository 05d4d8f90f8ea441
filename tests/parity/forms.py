"""The forms of each head, as transformers' task models have them: what the matrix asks every family to serve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from tests.parity.variants import Making
from tests.tiny import ENCODERS

TASK_MODELS: dict[str, Any] = {
    "SEQ_CLS": AutoModelForSequenceClassification,
    "TOKEN_CLS": AutoModelForTokenClassification,
    "QUESTION_ANS": AutoModelForQuestionAnswering,
    "FEATURE_EXTRACTION": AutoModel,
    "CAUSAL_LM": AutoModelForCausalLM,
    "": AutoModelForImageClassification,
}
"""By PEFT's task type; PEFT has none for images."""
TASK_TYPES = {
    "SEQ_CLS": "text-classification",
    "TOKEN_CLS": "token-classification",
    "QUESTION_ANS": "question-answering",
    "FEATURE_EXTRACTION": "feature-extraction",
    "CAUSAL_LM": "text-generation",
    "": "image-classification",
}
HEADS = ("classifier", "score", "qa_outputs", "pre_classifier", "head")
"""What transformers' task models call the modules that they put on a base."""
SAVED = {"modernbert": ("classifier", "head.dense", "head.norm")}
"""What PEFT must be told to save where its own defaults leave a part of the head out."""
HEADLESS = ("FEATURE_EXTRACTION", "CAUSAL_LM")
"""PEFT's task types whose models put nothing on the base that is trained."""


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """One form of a head: a task's name, PEFT's task type, its labels, and what an upload must say of it."""

    task: str
    peft_type: str
    labels: tuple[str, ...] = ()
    declared: Mapping[str, Any] = field(default_factory=dict)
    shown: str = ""

    @property
    def task_type(self) -> str:
        return TASK_TYPES[self.peft_type]

    @property
    def declaration(self) -> dict[str, Any]:
        labels = {"id2label": dict(enumerate(self.labels))} if self.labels else {}
        task_type = {} if self.peft_type else {"task_type": self.task_type}
        return {**task_type, **labels, **self.declared}

    @property
    def model_arguments(self) -> dict[str, Any]:
        if not self.labels:
            return {}
        problem = {name: value for name, value in self.declared.items() if name == "problem_type"}
        return {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": {label: index for index, label in enumerate(self.labels)},
            **problem,
        }

    def making(self, model_type: str) -> Making:
        """What PEFT's config is made for."""
        if self.peft_type in HEADLESS:
            return Making(model_type, self.peft_type)
        saved = SAVED.get(model_type, ()) if self.peft_type else ("classifier",)
        return Making(model_type, self.peft_type or None, HEADS, saved)


LABELS = ("billing", "shipping", "technical", "account", "other")
SEVERAL = {"problem_type": "multi_label_classification"}
NUMBER = {"problem_type": "regression"}
FORMS = (
    Form("single", "SEQ_CLS", LABELS, shown="one of several labels"),
    Form("multi", "SEQ_CLS", ("rude", "urgent", "spam"), SEVERAL, shown="several labels"),
    Form("score", "SEQ_CLS", ("stars",), NUMBER, shown="a number"),
    Form("tags", "TOKEN_CLS", ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")),
    Form("answer", "QUESTION_ANS"),
    Form("picture", "", LABELS, shown="one of several labels"),
    Form("marks", "", LABELS[:3], SEVERAL, shown="several labels"),
    Form("damage", "", ("damage",), NUMBER, shown="a number"),
    Form("mean", "FEATURE_EXTRACTION", shown="mean"),
    Form("cls", "FEATURE_EXTRACTION", declared={"pooling": "cls", "normalize": False}, shown="CLS"),
    Form("last", "FEATURE_EXTRACTION", declared={"pooling": "last", "normalize": True}, shown="last token"),
    Form("chat", "CAUSAL_LM"),
)


def task_model(base: Path, form: Form) -> Any:
    """transformers' model of a form, every weight of the base in it; raises ValueError where there is none."""
    auto = TASK_MODELS[form.peft_type]
    if form.peft_type == "CAUSAL_LM" and AutoConfig.from_pretrained(base).model_type in ENCODERS:
        raise ValueError("an encoder generates no text")
    options = {"dtype": torch.float32, "output_loading_info": True, **form.model_arguments}
    model, loading = auto.from_pretrained(base, **options)
    if model.base_model_prefix + ".embed_tokens.weight" in loading["missing_keys"]:
        # Llama's model for this task has another name for the backbone, and starts it at random unless told.
        model, loading = auto.from_pretrained(base, key_mapping={r"^model\.": "transformer."}, **options)
    assert all(name.startswith(HEADS) for name in loading["missing_keys"])
    return model.eval()

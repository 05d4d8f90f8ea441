"""Adapters made by PEFT with each kind of head, and the answers of transformers' own task models and pipelines."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    pipeline,
)
from transformers.pipelines.document_question_answering import select_starts_ends

TARGETS = {
    "bert": ["query", "dense"],
    "roberta": ["query", "dense"],
    "distilbert": ["q_lin", "lin1"],
    "modernbert": ["Wqkv", "Wo"],
    "llama": ["q_proj", "down_proj"],
    "gpt2": ["c_attn", "c_fc"],
}
SAVED = {"modernbert": ["classifier", "head"]}
"""What PEFT must be told to save where its own defaults leave a part of the head out."""
TASK_MODELS: dict[str, Any] = {
    "SEQ_CLS": AutoModelForSequenceClassification,
    "TOKEN_CLS": AutoModelForTokenClassification,
    "QUESTION_ANS": AutoModelForQuestionAnswering,
    "FEATURE_EXTRACTION": AutoModel,
}


@dataclass(frozen=True, slots=True)
class HeadCase:
    """One head: PEFT's task type, its labels, and what an upload must say of it."""

    task: str
    peft_type: str
    labels: tuple[str, ...] = ()
    declared: Mapping[str, Any] = field(default_factory=dict)

    @property
    def declaration(self) -> dict[str, Any]:
        labels = {"id2label": dict(enumerate(self.labels))} if self.labels else {}
        return {**labels, **self.declared}

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


CASES = (
    HeadCase("single", "SEQ_CLS", ("billing", "shipping", "technical", "account", "other")),
    HeadCase("multi", "SEQ_CLS", ("rude", "urgent", "spam"), {"problem_type": "multi_label_classification"}),
    HeadCase("score", "SEQ_CLS", ("stars",), {"problem_type": "regression"}),
    HeadCase("tags", "TOKEN_CLS", ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")),
    HeadCase("words", "TOKEN_CLS", ("noun", "verb", "adjective")),
    HeadCase("answer", "QUESTION_ANS"),
    HeadCase("mean", "FEATURE_EXTRACTION"),
    HeadCase("cls", "FEATURE_EXTRACTION", declared={"pooling": "cls", "normalize": False}),
    HeadCase("last", "FEATURE_EXTRACTION", declared={"pooling": "last", "normalize": True}),
)


def make_head_adapter(base: Path, model_type: str, case: HeadCase, folder: Path, seed: int) -> Path:
    """Save a PEFT adapter with random weights, the whole head included."""
    config = LoraConfig(
        task_type=case.peft_type,
        r=4,
        lora_alpha=8,
        target_modules=TARGETS[model_type],
        fan_in_fan_out=model_type == "gpt2",
        modules_to_save=list(SAVED.get(model_type, [])) if case.peft_type != "FEATURE_EXTRACTION" else None,
    )
    torch.manual_seed(seed)
    model = get_peft_model(task_model(base, case), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.normal_(std=0.2)
    model.save_pretrained(str(folder))
    return folder


class HeadReference:
    """One adapter's PeftModel in fp32, and the pipeline of its task around it."""

    def __init__(self, base: Path, case: HeadCase, folder: Path) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(base)
        self.model: Any = PeftModel.from_pretrained(task_model(base, case), folder).eval()
        if self.model.config.model_type == "bert":  # what BERT's own tokenizers say, and the tiny one does not
            self.tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]

    def pipe(self, task_type: str, inputs: Any, **parameters: Any) -> Any:
        """What transformers' pipeline answers."""
        pipe: Any = pipeline
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Tokenizer does not support real words")
            return pipe(task_type, model=self.model.get_base_model(), tokenizer=self.tokenizer)(
                inputs, **parameters
            )

    @torch.inference_mode()
    def vector(self, text: str, pooling: str, *, normalize: bool) -> list[float]:
        """A pooled state of the backbone."""
        inputs = self.tokenizer(text, return_tensors="pt")
        states = self.model(**inputs).last_hidden_state[0]
        pooled = {"mean": states.mean(0), "cls": states[0], "last": states[-1]}[pooling]
        vector: list[float] = (torch.nn.functional.normalize(pooled, dim=-1) if normalize else pooled).tolist()
        return vector

    @torch.inference_mode()
    def answers(
        self, question: str, context: str, *, size: int, stride: int, top_k: int, longest: int, may_be_empty: bool
    ) -> list[dict[str, Any]]:
        """What transformers' question answering pipeline answered while there was one, without words' alignment.

        Spans that several windows find are listed once, with their best score.
        """
        encoded = self.tokenizer(
            question, context, truncation="only_second", max_length=size, stride=stride,
            return_overflowing_tokens=True,
        )  # fmt: skip
        best: dict[tuple[int, int], float] = {}
        null = 1e6
        for index, encoding in enumerate(encoded.encodings):
            inputs = {name: torch.tensor([encoded[name][index]]) for name in self.tokenizer.model_input_names}
            output = self.model.get_base_model()(**inputs)  # PEFT's own forward drops token types here
            cls = self.tokenizer.cls_token_id
            masked = [
                of != 1 and token != cls for of, token in zip(encoding.sequence_ids, encoding.ids, strict=True)
            ]
            starts, ends, scores, null = select_starts_ends(
                output.start_logits.numpy(), output.end_logits.numpy(), np.array([masked]).astype(int),
                np.ones((1, len(masked)), dtype=int), null, top_k, may_be_empty, longest,
            )  # fmt: skip
            for start, end, score in zip(starts, ends, scores, strict=True):
                place = (encoding.offsets[start][0], encoding.offsets[end][1])
                best[place] = max(best.get(place, 0.0), float(score))
        found: list[dict[str, Any]] = [
            {"answer": context[start:end], "score": score, "start": start, "end": end}
            for (start, end), score in best.items()
        ]
        if may_be_empty:
            found.append({"answer": "", "score": null, "start": 0, "end": 0})
        return sorted(found, key=lambda one: -one["score"])[:top_k]


def task_model(base: Path, case: HeadCase) -> Any:
    """transformers' model of a case, every weight of the base in it."""
    auto = TASK_MODELS[case.peft_type]
    options = {"dtype": torch.float32, "output_loading_info": True, **case.model_arguments}
    model, loading = auto.from_pretrained(base, **options)
    if model.base_model_prefix + ".embed_tokens.weight" in loading["missing_keys"]:
        # Llama's model for this task has another name for the backbone, and starts it at random unless told.
        model, loading = auto.from_pretrained(base, key_mapping={r"^model\.": "transformer."}, **options)
    heads = ("classifier", "score", "qa_outputs", "pre_classifier", "head")
    assert all(name.startswith(heads) for name in loading["missing_keys"])
    return model

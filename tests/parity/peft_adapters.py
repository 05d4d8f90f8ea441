"""Adapters made by PEFT with random, non-zero weights, and the answers of their PeftModel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

LABELS = ["billing", "shipping", "technical", "account", "other"]

SOME_TARGETS = {
    "llama": ["q_proj", "v_proj", "down_proj"],
    "bert": ["query", "value"],
}


@dataclass(frozen=True, slots=True)
class AdapterCase:
    """One way to make a LoRA: its task type, rank, scaling rule, and which targets and layers it has."""

    task_type: str
    rank: int
    rslora: bool
    all_targets: bool
    layers: tuple[int, ...] | None = None

    @property
    def task(self) -> str:
        kind = {"SEQ_CLS": "classify", "FEATURE_EXTRACTION": "embed", "CAUSAL_LM": "generate"}[self.task_type]
        scope = "all" if self.all_targets else "some"
        layers = "" if self.layers is None else f"-layers{len(self.layers)}"
        return f"{kind}-r{self.rank}{'-rs' if self.rslora else ''}-{scope}{layers}"


def cases_for(family: str) -> list[AdapterCase]:
    """Three ranks, rsLoRA on and off, subsets of targets and layers, for each task type of the family."""
    task_types = ["SEQ_CLS", "FEATURE_EXTRACTION"] + ([] if family == "encoder" else ["CAUSAL_LM"])
    cases = []
    for task_type in task_types:
        # On a bare decoder the layers' path has no prefix, and PEFT then finds no layer index in it.
        bare_decoder = task_type == "FEATURE_EXTRACTION" and family == "decoder"
        layers = None if bare_decoder else (1,)
        cases += [
            AdapterCase(task_type, rank=4, rslora=False, all_targets=True),
            AdapterCase(task_type, rank=8, rslora=True, all_targets=False),
            AdapterCase(task_type, rank=2, rslora=False, all_targets=False, layers=layers),
        ]
    return cases


def make_peft_adapter(
    base: Path, model_type: str, case: AdapterCase, folder: Path, seed: int, scale: float
) -> Path:
    """Save a PEFT adapter with random weights of standard deviation `scale`, B and the head included."""
    config = LoraConfig(
        task_type=case.task_type,
        r=case.rank,
        lora_alpha=2 * case.rank,
        use_rslora=case.rslora,
        target_modules="all-linear" if case.all_targets else SOME_TARGETS[model_type],
        layers_to_transform=list(case.layers) if case.layers is not None else None,
    )
    torch.manual_seed(seed)
    model = get_peft_model(_task_model(base, case.task_type), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.normal_(std=scale)
    model.save_pretrained(str(folder))
    return folder


class PeftReference:
    """One adapter's PeftModel in fp32, asked one input at a time."""

    def __init__(self, base: Path, case: AdapterCase, folder: Path) -> None:
        self.case = case
        self.tokenizer: Any = AutoTokenizer.from_pretrained(base)
        self.model: Any = PeftModel.from_pretrained(_task_model(base, case.task_type), folder).eval()

    @torch.inference_mode()
    def probabilities(self, text: str) -> dict[str, float]:
        """The class probabilities by label."""
        logits = self.model(**self.tokenizer(text, return_tensors="pt")).logits[0]
        return dict(zip(LABELS, torch.softmax(logits, dim=-1).tolist(), strict=True))

    @torch.inference_mode()
    def embedding(self, text: str) -> list[float]:
        """The mean-pooled, normalised vector."""
        states = self.model(**self.tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        vector: list[float] = torch.nn.functional.normalize(states.mean(0), dim=-1).tolist()
        return vector

    @torch.inference_mode()
    def greedy(self, text: str, count: int) -> list[int]:
        """At most `count` greedy tokens after the text; an end-of-text token is the last."""
        inputs = self.tokenizer(text, return_tensors="pt")
        output = self.model.generate(**inputs, do_sample=False, max_new_tokens=count, pad_token_id=0)
        tokens: list[int] = output[0, inputs["input_ids"].shape[1] :].tolist()
        return tokens


def agreement(one: Sequence[int], other: Sequence[int]) -> float:
    """The share of places at which two token lists agree."""
    assert len(one) == len(other) > 0
    return sum(a == b for a, b in zip(one, other, strict=True)) / len(one)


def _task_model(base: Path, task_type: str) -> Any:
    if task_type == "SEQ_CLS":
        return AutoModelForSequenceClassification.from_pretrained(
            base, num_labels=len(LABELS), dtype=torch.float32, pad_token_id=0
        )
    auto: Any = AutoModelForCausalLM if task_type == "CAUSAL_LM" else AutoModel
    return auto.from_pretrained(base, dtype=torch.float32)

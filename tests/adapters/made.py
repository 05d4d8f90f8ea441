"""Adapters made for tests: by hand (tensors and JSON, one fault at a time) and by PEFT on tiny bases."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from multigraft_adapters.artifact import CONFIG_FILE, MANIFEST_FILE, TENSORS_FILE, read_folder
from multigraft_adapters.bases import BaseSpec, KVLayout, LinearShape
from multigraft_adapters.bases.spec import HeadLayout
from multigraft_adapters.errors import InvalidAdapterError
from multigraft_adapters.methods import LoraDelta
from multigraft_adapters.verify import verify

SPEC = BaseSpec(
    name="tiny",
    model_type="llama",
    family="decoder",
    hidden_size=8,
    vocab_size=32,
    max_length=64,
    targets={
        f"layers.{layer}.{module}": LinearShape(*shape)
        for layer in range(2)
        for module, shape in {
            "self_attn.q_proj": (8, 8),
            "self_attn.v_proj": (8, 4),
            "mlp.up_proj": (8, 16),
        }.items()
    },
    kv=KVLayout(layers=2, heads=1, head_dim=4),
    has_pooler=False,
    backbone_prefix="model",
    fingerprint="sha256:" + "1" * 64,
    tokenizer_hash="sha256:" + "2" * 64,
    heads={"text-classification": HeadLayout("score", pooling="last", bias=False)},
)
LABELS = {0: "billing", 1: "shipping", 2: "other"}
TASK_MODELS = {
    "CAUSAL_LM": AutoModelForCausalLM,
    "SEQ_CLS": AutoModelForSequenceClassification,
    "FEATURE_EXTRACTION": AutoModel,
}


@dataclass
class Parts:
    """An adapter before it is written down; a test spoils one of its parts."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    manifest: dict[str, Any] | None = None
    more: dict[str, bytes] = field(default_factory=dict)

    def spoil(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor | None]) -> None:
        """Change keys of the config and tensors; None takes a tensor away."""
        self.config |= config
        for name, tensor in tensors.items():
            self.tensors.pop(name, None)
            if tensor is not None:
                self.tensors[name] = tensor

    def files(self) -> dict[str, bytes]:
        files = {
            CONFIG_FILE: json.dumps(self.config).encode(),
            TENSORS_FILE: safetensors.torch.save(self.tensors, metadata={"format": "pt"}),
        }
        if self.manifest is not None:
            files[MANIFEST_FILE] = json.dumps(self.manifest).encode()
        return files | self.more


def generation_parts(*, modules: tuple[str, ...] = ("q_proj", "v_proj"), rank: int = 2, seed: int = 0) -> Parts:
    """A text-generation LoRA for SPEC, as PEFT writes it: without a manifest."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for path, shape in SPEC.targets.items():
        if path.endswith(modules):
            name = f"base_model.model.model.{path}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(rank, shape.in_features, generator=generator)
            tensors[f"{name}.lora_B.weight"] = torch.randn(shape.out_features, rank, generator=generator)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 4,
        "target_modules": list(modules),
    }
    return Parts(config, tensors)


def classification_parts() -> Parts:
    """A text-classification LoRA for SPEC with a head of three labels and a manifest."""
    parts = generation_parts()
    parts.config |= {"task_type": "SEQ_CLS", "modules_to_save": ["classifier", "score"]}
    parts.tensors["base_model.model.score.weight"] = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    parts.manifest = {
        "schema_version": 1,
        "task_type": "text-classification",
        "id2label": {str(index): label for index, label in LABELS.items()},
        "head": {"kind": "classification", "pooling": "last", "activation": "softmax"},
        "method": {"name": "lora", "parameters": {"r": 2, "alpha": 4}},
        "base": {"fingerprint": SPEC.fingerprint},
        "tokenizer_hash": SPEC.tokenizer_hash,
    }
    return parts


def check_refused(parts: Parts, problem: str, spec: BaseSpec = SPEC) -> None:
    """Verification names this problem, maybe with others."""
    with pytest.raises(InvalidAdapterError) as caught:
        verify(parts.files(), spec)
    assert any(problem in found for found in caught.value.problems), caught.value.problems


@dataclass(frozen=True)
class TinyBase:
    """A saved tiny base and what the adapters package knows of it."""

    folder: Path
    spec: BaseSpec


def as_lora(delta: object) -> LoraDelta:
    """A delta that is known to be a LoRA's."""
    assert isinstance(delta, LoraDelta)
    return delta


def peft_model(base: TinyBase, config: PeftConfig, seed: int = 0) -> PeftModel:
    """A PEFT model on a tiny base, every trained tensor random."""
    task = {"num_labels": len(LABELS), "pad_token_id": 0} if config.task_type == "SEQ_CLS" else {}
    model = TASK_MODELS[str(config.task_type)].from_pretrained(base.folder, dtype=torch.float32, **task)
    wrapped = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return wrapped.eval()


def saved(model: PeftModel, folder: Path) -> Mapping[str, bytes]:
    """What PEFT saves of a model's adapter."""
    model.save_pretrained(str(folder))
    return read_folder(folder)

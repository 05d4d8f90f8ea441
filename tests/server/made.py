"""Adapters for the server's tests: small random LoRAs, as a foreign PEFT would save them, with a manifest."""

from __future__ import annotations

import json
from typing import Any

import safetensors.torch
import torch

from multigraft_adapters.artifact import CONFIG_FILE, MANIFEST_FILE, TENSORS_FILE
from multigraft_adapters.bases import BaseSpec
from multigraft_adapters.bases.spec import HeadLayout
from multigraft_adapters.manifest import LABELLED_TASKS

LABELS = ("billing", "shipping", "other")
PEFT_TYPES = {
    "text-classification": "SEQ_CLS",
    "token-classification": "TOKEN_CLS",
    "question-answering": "QUESTION_ANS",
    "text-generation": "CAUSAL_LM",
    "feature-extraction": "FEATURE_EXTRACTION",
    "image-classification": None,
}
HEADS: dict[str, dict[str, Any]] = {
    "text-classification": {"kind": "classification"},
    "token-classification": {"kind": "tokens"},
    "question-answering": {"kind": "spans"},
    "text-generation": {"kind": "generation"},
    "feature-extraction": {"kind": "embedding", "pooling": "mean", "normalize": True},
    "image-classification": {"kind": "images"},
}


def adapter_files(
    spec: BaseSpec,
    task_type: str,
    *,
    seed: int = 0,
    rank: int = 2,
    labels: tuple[str, ...] = LABELS,
    **manifest: Any,
) -> dict[str, bytes]:
    """The three files of an adapter on attention projections, large enough to change every answer."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    has_prefix = task_type != "feature-extraction"
    prefix = f"base_model.model.{spec.of_task(task_type).backbone_prefix}." if has_prefix else "base_model.model."
    for path, shape in spec.targets.items():
        if path.endswith(_modules(spec)):
            tensors[f"{prefix}{path}.lora_A.weight"] = torch.randn(rank, shape.in_features, generator=generator)
            tensors[f"{prefix}{path}.lora_B.weight"] = torch.randn(shape.out_features, rank, generator=generator)
    layout = spec.heads.get(task_type)
    if layout is not None:
        tensors |= _head(spec, layout, 2 if task_type == "question-answering" else len(labels), generator)
    declared = {
        "schema_version": 1,
        "task_type": task_type,
        "head": HEADS[task_type],
        "method": {"name": "lora"},
        "base": {"fingerprint": spec.fingerprint},
        **({"id2label": dict(enumerate(labels))} if task_type in LABELLED_TASKS else {}),
        **manifest,
    }
    config = {
        "peft_type": "LORA",
        "task_type": PEFT_TYPES[task_type],
        "r": rank,
        "lora_alpha": 2,
        "target_modules": list(_modules(spec)),
    }
    return {
        CONFIG_FILE: json.dumps(config).encode(),
        TENSORS_FILE: safetensors.torch.save(tensors, metadata={"format": "pt"}),
        MANIFEST_FILE: json.dumps(declared).encode(),
    }


def _modules(spec: BaseSpec) -> tuple[str, ...]:
    return ("query", "value") if spec.family == "encoder" and spec.image is None else ("q_proj", "v_proj")


def _head(spec: BaseSpec, layout: HeadLayout, outputs: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    shapes = {"weight": (outputs, spec.hidden_size), "bias": (outputs,)}
    return {
        f"base_model.model.{path}": torch.randn(shapes[part], generator=generator)
        for part, path in layout.output_tensors.items()
    }

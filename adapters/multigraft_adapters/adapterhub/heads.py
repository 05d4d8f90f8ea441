"""AdapterHub's prediction heads as the layouts that a base's heads may have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from multigraft_adapters.adapterhub.files import HEAD_CONFIG_FILE, Saved
from multigraft_adapters.artifact import listed, shown
from multigraft_adapters.bases.spec import BaseSpec, HeadLayout
from multigraft_adapters.manifest import Pooling, TaskType
from multigraft_adapters.tensors_file import PEFT_PREFIX

TASK_TYPES: dict[str, TaskType] = {
    "classification": "text-classification",
    "multilabel_classification": "text-classification",
    "tagging": "token-classification",
    "question_answering": "question-answering",
}
OUTPUT_INDEX = {1: 1, 2: 4}
"""Where the last linear module is among a head's modules, by its number of layers; each follows a dropout, and all
but the last are followed by an activation."""


@dataclass(frozen=True, slots=True)
class ConvertedHead:
    """What the manifest says of a head, its tensors, and the name that modules_to_save has for it."""

    manifest: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    modules: tuple[str, ...] = ()


def convert_head(saved: Saved | None, labels: Sequence[str], spec: BaseSpec, problems: list[str]) -> ConvertedHead:
    """The head; an adapter without one makes vectors. What is missing is left to verification."""
    if saved is None:
        if labels:
            problems.append("labels are given, and the adapter has no head")
        return ConvertedHead({"task_type": "feature-extraction"})
    config = saved.config.get("config")
    config = config if isinstance(config, dict) else {}
    task_type = TASK_TYPES.get(str(config.get("head_type")))
    if task_type is None:
        kind = shown(config.get("head_type"))
        problems.append(
            f"{HEAD_CONFIG_FILE}: head_type {kind} is not converted; those are {', '.join(TASK_TYPES)}"
        )
        return ConvertedHead({})
    layout = _layout(config, task_type, spec, problems)
    if layout is None:
        return ConvertedHead({})
    manifest = _manifest(config, task_type, layout, labels, problems)
    tensors = _tensors(saved.tensors, config, layout, problems)
    return ConvertedHead(manifest, tensors, (layout.output.split(".")[0],))


def _layout(
    config: Mapping[str, Any], task_type: TaskType, spec: BaseSpec, problems: list[str]
) -> HeadLayout | None:
    """The layout of the base's heads that computes the same."""
    own = spec.heads[task_type]
    pooling: Pooling | None = None
    if task_type == "text-classification":
        pooling = "pooler" if config.get("use_pooler") else "cls"
    activation = config.get("activation_function") if config.get("layers") == 2 else None
    for layout in (own, *own.others):
        hidden = layout.hidden.activation if layout.hidden is not None else None
        if config.get("layers") in OUTPUT_INDEX and layout.pooling == pooling and hidden == activation:
            return layout
    reads = "every token's state" if pooling is None else f"the {pooling} state"
    shape = f"{shown(config.get('layers'))} layers and the activation {shown(activation)}"
    problems.append(f"{HEAD_CONFIG_FILE}: a head of {shape} on {reads} of a {spec.model_type} is not served")
    return None


def _manifest(
    config: Mapping[str, Any],
    task_type: TaskType,
    layout: HeadLayout,
    labels: Sequence[str],
    problems: list[str],
) -> dict[str, Any]:
    manifest: dict[str, Any] = {"task_type": task_type, "head": {}}
    if layout.pooling is not None:
        manifest["head"]["pooling"] = layout.pooling
    if config["head_type"] == "multilabel_classification":
        manifest["problem_type"] = "multi_label_classification"
    elif task_type == "text-classification":
        single = config.get("num_labels") == 1
        manifest["problem_type"] = "regression" if single else "single_label_classification"
    if task_type != "question-answering" and manifest.get("problem_type") != "regression":
        manifest["id2label"] = _id2label(config.get("label2id"), labels, problems)
    return manifest


def _id2label(label2id: Any, labels: Sequence[str], problems: list[str]) -> dict[str, str] | None:
    given = {str(index): label for index, label in enumerate(labels)}
    if not isinstance(label2id, dict) or not label2id:
        if not given:
            problems.append(f"{HEAD_CONFIG_FILE} names no labels: give them with --labels")
        return given or None
    stored = {str(index): label for label, index in label2id.items()}
    if given and given != stored:
        problems.append(f"--labels: {HEAD_CONFIG_FILE} has others: {listed(list(label2id))}")
    return stored


def _tensors(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], layout: HeadLayout, problems: list[str]
) -> dict[str, Tensor]:
    """The head's tensors under PEFT's names; a bias that it has none of is zero."""
    by_index = {name.split(".", 2)[-1]: tensor for name, tensor in tensors.items() if name.startswith("heads.")}
    output = OUTPUT_INDEX[config["layers"]]
    names = {f"{output}.{part}": path for part, path in layout.output_tensors.items()}
    names |= {f"1.{part.partition('.')[2]}": path for part, path in layout.hidden_tensors.items()}
    strangers = sorted(name for name in tensors if name.split(".", 2)[-1] not in names)
    if strangers or len(by_index) != len(tensors):
        problems.append(f"tensors that are not of this head: {listed(strangers or sorted(tensors))}")
    weight = by_index.get(f"{output}.weight")
    if config.get("bias") is False and weight is not None and weight.dim() == 2:
        by_index.setdefault(f"{output}.bias", torch.zeros(weight.shape[0], dtype=weight.dtype))
    return {PEFT_PREFIX + path: by_index[name] for name, path in names.items() if name in by_index}

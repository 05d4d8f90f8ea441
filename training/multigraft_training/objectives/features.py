"""What a classification head's last layer reads: looked at, and answered from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from multigraft_training.batches import Batch
from multigraft_training.tasks.classification import ClassificationTask


def features_of(model: Any, task: ClassificationTask, batch: Batch) -> tuple[Tensor, Tensor]:
    """The states (rows, hidden) that the head's last layer reads, and its logits (rows, labels), both fp32."""
    seen: list[Tensor] = []
    layer = model.get_base_model().get_submodule(task.output_layer)
    handle = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        logits = task.logits(model, batch)
    finally:
        handle.remove()
    states = seen[-1]
    if states.dim() == 3:
        # A decoder's head reads all positions, and transformers takes the last one's answer.
        last = batch.attention_mask.sum(dim=1) - 1 + states.shape[1] - batch.attention_mask.shape[1]
        states = states[torch.arange(len(states), device=states.device), last]
    return states.float(), logits


def logits_of(model: Any, task: ClassificationTask, features: Tensor) -> Tensor:
    """The head's last layer on states (rows, hidden): logits (rows, labels), fp32."""
    layer = model.get_base_model().get_submodule(task.output_layer)
    logits: Tensor = layer(features)
    return logits.float()

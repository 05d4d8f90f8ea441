"""Dropout of what a classification head reads."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from multigraft_training.tasks import TrainingTask
from multigraft_training.tasks.classification import ClassificationTask


def set_head_dropout(model: Any, task: TrainingTask, share: float | None) -> None:
    """Drop this share of the head's input in training; None leaves the base's own dropout.

    A family whose heads have a dropout gets its share changed; before the last layer of another's, one is put.
    Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting".
    """
    if share is None or not isinstance(task, ClassificationTask):
        return
    task_model = model.get_base_model()
    backbone = set(task_model.base_model.modules())
    own = [module for module in task_model.modules() if isinstance(module, nn.Dropout) and module not in backbone]
    for module in own:
        module.p = share
    if not own:
        drop = nn.Dropout(share)

        def dropped(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            return (drop.train(layer.training)(inputs[0]), *inputs[1:])

        task_model.get_submodule(task.output_layer).register_forward_pre_hook(dropped)

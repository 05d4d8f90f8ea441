"""The frozen base's own dropout, which a delta can be trained without."""

from __future__ import annotations

from typing import Any

from torch import nn

OF_DELTAS = ("lora_dropout", "bottleneck_dropout")
"""Modules that belong to a delta and keep what the method says."""


def set_base_dropout(model: Any, share: float | None) -> None:
    """Let the base, its head's dropout not counted, drop this share in training; None leaves what its config says.

    On a CPU drawing the masks takes a third of a step's time.
    """
    if share is None:
        return
    for path, module in model.get_base_model().base_model.named_modules():
        if any(name in path for name in OF_DELTAS):
            continue
        if isinstance(module, nn.Dropout):
            module.p = share
        elif isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = share  # what attention functions are given

"""Several tasks' models over one frozen base with one delta."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


class SharedModel(nn.Module):
    """PEFT models of several tasks, `models`, that share the first one's base and delta; each has its own head.

    What the others were loaded with beside their heads is let go. What is called as on PEFT's models means the
    same, of all of them together.
    """

    def __init__(self, models: Sequence[Any]) -> None:
        super().__init__()
        for model in models[1:]:
            _share(models[0], model)
        self.models = nn.ModuleList(models)

    @property
    def device(self) -> torch.device:
        device: torch.device = self._first.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """What the base was loaded as."""
        dtype: torch.dtype = self._first.dtype
        return dtype

    def get_base_model(self) -> Any:
        """The first task's."""
        return self._first.get_base_model()

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        counts = [(value.numel(), value.requires_grad) for value in self.parameters()]
        return sum(count for count, is_trained in counts if is_trained), sum(count for count, _ in counts)

    @property
    def _first(self) -> Any:
        return self.models[0]


def _share(first: Any, other: Any) -> None:
    """Put the parts of the first model's base, its delta in them, into another's.

    NOTE: a part that the first has not, such as the pooler, stays the other's own; it is frozen, and has no delta.
    """
    shared, own = (model.get_base_model().base_model for model in (first, other))
    for name, module in shared.named_children():
        if getattr(own, name, None) is not None:
            setattr(own, name, module)
    if first.active_peft_config.is_prompt_learning:
        other.prompt_encoder = first.prompt_encoder
        other.word_embeddings = first.word_embeddings

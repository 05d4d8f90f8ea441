"""A task's model without a delta, as the trainer takes PEFT's: only the head is trained, or every weight."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from multigraft_adapters.artifact import CONFIG_FILE, TENSORS_FILE
from multigraft_adapters.methods.head import PEFT_TYPE
from multigraft_adapters.tensors_file import PEFT_PREFIX


@dataclass(frozen=True, slots=True)
class _PeftType:
    value: str = PEFT_TYPE


@dataclass(frozen=True, slots=True)
class PlainConfig:
    """What stands in for PEFT's config: no virtual tokens, and the head as all that is saved."""

    task_type: str | None
    modules_to_save: tuple[str, ...]
    base_model_name_or_path: str
    peft_type: _PeftType = _PeftType()
    is_prompt_learning: bool = False


class PlainModel(nn.Module):
    """A transformers model for a task, of which the head is trained or, with `is_full`, everything.

    What is called as on PEFT's models means the same.
    """

    def __init__(self, model: Any, config: PlainConfig, *, is_full: bool) -> None:
        super().__init__()
        self.model = model
        self.is_full = is_full
        self.active_peft_config = config
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(is_full or name in self.head_parameters)

    @property
    def dtype(self) -> torch.dtype:
        """What the base was loaded as."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def head_parameters(self) -> frozenset[str]:
        """The names of the head's parameters."""
        heads = tuple(f"model.{module}." for module in self.active_peft_config.modules_to_save)
        return frozenset(name for name, _ in self.named_parameters() if name.startswith(heads))

    @property
    def base_model(self) -> Any:
        return self.model.base_model

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def generation_config(self) -> Any:
        return self.model.generation_config

    def get_base_model(self) -> Any:
        return self.model

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        counts = [(value.numel(), value.requires_grad) for value in self.parameters()]
        return sum(count for count, is_trained in counts if is_trained), sum(count for count, _ in counts)

    def forward(self, **inputs: Any) -> Any:
        return self.model(**inputs)

    def generate(self, **inputs: Any) -> Any:
        return self.model.generate(**inputs)

    def save_pretrained(self, folder: str, save_embedding_layers: bool = False) -> None:
        """Write the head as the two files of an artifact that PEFT would write."""
        config = self.active_peft_config
        values = {
            "peft_type": PEFT_TYPE,
            "task_type": config.task_type,
            "modules_to_save": sorted(config.modules_to_save),
            "base_model_name_or_path": config.base_model_name_or_path,
            "inference_mode": True,
        }
        Path(folder, CONFIG_FILE).write_text(json.dumps(values), "utf-8")
        named = dict(self.named_parameters())
        tensors = {
            PEFT_PREFIX + name.removeprefix("model."): named[name].detach().cpu().float().contiguous()
            for name in sorted(self.head_parameters)
        }
        save_file(tensors, Path(folder, TENSORS_FILE))

"""What becomes of a full fine-tune: the whole model as a folder, and a LoRA extracted from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from multigraft_training.plain import PlainModel

MODEL_FOLDER = "model"
"""In the run's folder: what transformers loads, and what a recipe may name as its base or teacher."""


def save_whole(model: PlainModel, reader: Any, folder: Path) -> None:
    """Write the whole model and its tokenizer, or what reads its images, as transformers reads them."""
    model.get_base_model().save_pretrained(folder)
    reader.save_pretrained(folder)


@torch.no_grad()
def extract(full: PlainModel, lora: Any) -> Any:
    """Put into a fresh LoRA model the nearest to the full one that its ranks allow, and return it.

    Each target gets the truncated singular value decomposition of W' - W, the best approximation of its rank
    (Eckart and Young 1936); biases, where `lora` trains them, and the head are copied. Changed embeddings and
    weights of layer norms are not in a LoRA: what is lost by all this must be measured.
    """
    changed = dict(full.get_base_model().named_parameters())
    base = lora.get_base_model()
    for path, layer in base.named_modules():
        if isinstance(layer, LoraLayer):
            difference = changed[f"{path}.weight"].float() - layer.get_base_layer().weight.float()
            _set_low_rank(layer, difference.T if getattr(layer, "fan_in_fan_out", False) else difference)
    for name, parameter in lora.named_parameters():
        if parameter.requires_grad and "lora_" not in name:
            parameter.copy_(changed[_plain_name(name)])
    return lora


def _set_low_rank(layer: Any, difference: Tensor) -> None:
    """Let B A times the scale be the best of its rank to `difference` (out, in)."""
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight  # (rank, in), (out, rank)
    left, sizes, right = torch.linalg.svd(difference, full_matrices=False)
    rank = min(down.shape[0], len(sizes))
    root = (sizes[:rank] / layer.scaling["default"]).sqrt()
    down.zero_()
    up.zero_()
    down[:rank] = root[:, None] * right[:rank]
    up[:, :rank] = left[:, :rank] * root


def _plain_name(name: str) -> str:
    """The name that a parameter of a PEFT model has in the model without PEFT."""
    for added in ("base_model.model.", ".modules_to_save.default", ".base_layer"):
        name = name.replace(added, "", 1)
    return name

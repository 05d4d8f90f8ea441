"""The check that what the artifact says is what was trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from multigraft_adapters.errors import IntegrityError
from multigraft_adapters.methods import LoraDelta, LoraPair, apply_lora
from multigraft_adapters.verify import VerifiedAdapter
from multigraft_training.examples import Example
from multigraft_training.tasks import TrainingTask

RELATIVE_TOLERANCE = 1e-3
"""Of the largest output, in fp32: the two sums run in other orders, and nothing else differs."""


@contextmanager
def applied(backbone: nn.Module, delta: LoraDelta) -> Iterator[None]:
    """Let each target of the bare backbone add its pair by the reference apply."""
    hooks = [
        backbone.get_submodule(path).register_forward_hook(_adding(pair)) for path, pair in delta.pairs.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def check_reference(
    base_model: Any,
    task: TrainingTask,
    adapter: VerifiedAdapter,
    examples: Sequence[Example],
    expected: Sequence[Tensor],
) -> float:
    """The largest difference between `expected`, the trained model's outputs on the examples, and those of the
    frozen base with the verified delta and head, as a share of the largest output.

    `base_model` is the task model without the delta, fp32. Raises IntegrityError when they are not the same.
    """
    assert isinstance(adapter.delta, LoraDelta)  # the method that a recipe can name
    difference = scale = 0.0
    with torch.inference_mode(), applied(base_model.base_model, adapter.delta):
        for example, outputs in zip(examples, expected, strict=True):
            reference = task.reference_outputs(base_model, adapter, example)
            difference = max(difference, float((reference - outputs).abs().max()))
            scale = max(scale, float(outputs.abs().max()))
    relative = difference / max(scale, 1e-6)
    if not relative <= RELATIVE_TOLERANCE:
        raise IntegrityError(
            f"the artifact does not compute what was trained: outputs differ by {relative:.2%} of the largest"
        )
    return relative


def _adding(pair: LoraPair) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + apply_lora(inputs[0], pair)

    return hook

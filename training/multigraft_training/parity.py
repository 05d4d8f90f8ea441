"""The check that what the artifact says is what was trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from multigraft_adapters.errors import IntegrityError
from multigraft_adapters.verify import VerifiedAdapter
from multigraft_training.examples import Example
from multigraft_training.tasks import TrainingTask

RELATIVE_TOLERANCE = 1e-3
"""Of the largest output, in fp32: the two sums run in other orders, and nothing else differs."""


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
    difference = scale = 0.0
    with torch.inference_mode():
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

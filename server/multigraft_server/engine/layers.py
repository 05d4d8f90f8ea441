"""Wrapping a base's linear modules once, so that deltas are added inside a step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from multigraft_adapters.bases import LinearShape
from multigraft_server.engine.banks.low_rank import LowRankBank
from multigraft_server.engine.banks.prompts import take_in
from multigraft_server.engine.banks.scales import ScalePlace
from multigraft_server.engine.context import StepContext


class DeltaLinear(nn.Module):
    """A frozen linear module (`nn.Linear` or `Conv1D`) plus the delta of each token's slot.

    Swapping an adapter writes into the banks; the module tree never changes. Each bank is None until the first
    adapter that needs it here is placed.
    """

    def __init__(self, base: nn.Module, shape: LinearShape, context: StepContext) -> None:
        super().__init__()
        self.base = base
        self.shape = shape
        self.low_rank: LowRankBank | None = None
        self.inputs = ScalePlace(shape.in_features)
        self.outputs = ScalePlace(shape.out_features)
        self._context = context

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        step = self._context.delta
        if step is None:
            y: Tensor = self.base(x)
            return y
        if step.inputs is not None and self.inputs.bank is not None:
            x = x.clone(memory_format=torch.contiguous_format)
            self.inputs.bank.apply(x.view(-1, x.shape[-1]), step.inputs)
        y = self.base(x)
        if step.outputs is not None and self.outputs.bank is not None:
            self.outputs.bank.apply(y.view(-1, y.shape[-1]), step.outputs)
        if step.low_rank is not None and self.low_rank is not None:
            self.low_rank.add_to(y.view(-1, y.shape[-1]), x.reshape(-1, x.shape[-1]), step.low_rank)
        return y


def hook_embedding(embedding: nn.Module, context: StepContext) -> None:
    """Let virtual tokens take the place of what their ids would be embedded as."""

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], embedded: Tensor) -> None:
        if context.prompts is not None:
            take_in(embedded, context.prompts)

    embedding.register_forward_hook(hook)


def wrap_linears(
    backbone: nn.Module, targets: Mapping[str, LinearShape], context: StepContext
) -> dict[str, DeltaLinear]:
    """Replace each target module by a DeltaLinear around it; returns them by path."""
    wrapped: dict[str, DeltaLinear] = {}
    for path, shape in targets.items():
        parent_path, _, name = path.rpartition(".")
        parent = backbone.get_submodule(parent_path)
        wrapped[path] = DeltaLinear(backbone.get_submodule(path), shape, context)
        setattr(parent, name, wrapped[path])
    return wrapped

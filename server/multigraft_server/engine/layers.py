"""Wrapping a base's modules once, so that deltas are added inside a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from multigraft_adapters.bases import Base, BaseSpec, LinearShape
from multigraft_adapters.bases.spec import OUTPUT_HEAD
from multigraft_adapters.methods.blocks import feedforward_input, norm_after
from multigraft_server.engine.banks.bottlenecks import BottleneckPlace
from multigraft_server.engine.banks.embeddings import EmbeddingPlace
from multigraft_server.engine.banks.low_rank import LowRankBank
from multigraft_server.engine.banks.prompts import take_in
from multigraft_server.engine.banks.scales import ScalePlace
from multigraft_server.engine.banks.step import DeltaStep
from multigraft_server.engine.context import StepContext
from multigraft_server.engine.kernels import Kernels
from multigraft_server.engine.packing import packed
from multigraft_server.engine.shared import share_products


@dataclass(slots=True)
class BlockInput:
    """What the first linear module of a feed-forward block has read, for the last one; kept while a block runs."""

    x: Tensor | None = None


class DeltaLinear(nn.Module):
    """A frozen linear module (`nn.Linear`, `Conv1D` or packed) plus the delta of each token's slot.

    Swapping an adapter writes into the banks; the module tree never changes. There is no bank until the first
    adapter that needs it here is placed.
    """

    def __init__(self, base: nn.Module, shape: LinearShape, context: StepContext) -> None:
        super().__init__()
        self.base = base
        self.shape = shape
        self.low_rank: LowRankBank | None = None
        self.inputs = ScalePlace(shape.in_features)
        self.outputs = ScalePlace(shape.out_features)
        self.after = BottleneckPlace(shape.out_features)
        self.parallel = BottleneckPlace(shape.out_features)
        self.begins: BlockInput | None = None
        self.ends: BlockInput | None = None
        self._context = context

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        step, merged = self._context.delta, self._context.merged
        base = self.base if merged is None else merged.get(self, self.base)
        if step is None:
            y: Tensor = base(x)
            return y
        if step.parallel and self.begins is not None:
            self.begins.x = x
        if step.inputs is not None and self.inputs.bank is not None:
            x = x.clone(memory_format=torch.contiguous_format)
            self.inputs.bank.apply(x.view(-1, x.shape[-1]), step.inputs)
        y = base(x)
        if step.outputs is not None and self.outputs.bank is not None:
            self.outputs.bank.apply(y.view(-1, y.shape[-1]), step.outputs)
        if step.low_rank is not None and self.low_rank is not None:
            self.low_rank.add_to(y.view(-1, y.shape[-1]), x.reshape(-1, x.shape[-1]), step.low_rank)
        if step.after or step.parallel:
            self._add_bottlenecks(y.view(-1, y.shape[-1]), step)
        return y

    def _add_bottlenecks(self, y: Tensor, step: DeltaStep) -> None:
        if step.after and self.after.banks:
            self.after.add_to(y, y, step.after)
        if step.parallel and self.ends is not None and self.ends.x is not None:
            self.parallel.add_to(y, self.ends.x.reshape(-1, y.shape[-1]), step.parallel)
            self.ends.x = None


class DeltaNorm(nn.Module):
    """A frozen layer norm, its output shifted by a delta; of a residual sum u, plus what a delta does around it:
    LN(u + f(LN(u)))."""

    def __init__(self, base: nn.Module, features: int, context: StepContext) -> None:
        super().__init__()
        self.base = base
        self.around = BottleneckPlace(features)
        self.outputs = ScalePlace(features)
        self._context = context

    def forward(self, summed: Tensor, residual: Tensor | None = None) -> Tensor:
        """(..., n) -> (..., n); of a fused norm, the norm of summed + residual."""
        step, merged = self._context.delta, self._context.merged
        base = self.base if merged is None else merged.get(self, self.base)
        normed: Tensor = base(summed) if residual is None else base(summed, residual)
        if step is None:
            return normed
        if step.around and self.around.banks:
            summed = summed if residual is None else summed + residual
            added = torch.zeros_like(normed)
            self.around.add_to(added.view(-1, added.shape[-1]), normed.reshape(-1, added.shape[-1]), step.around)
            normed = base(summed + added)
        if step.outputs is not None and self.outputs.bank is not None:
            self.outputs.bank.apply(normed.view(-1, normed.shape[-1]), step.outputs)
        return normed


def hook_embedding(embedding: nn.Module, context: StepContext) -> None:
    """Let virtual tokens take the place of what their ids would be embedded as."""

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], embedded: Tensor) -> None:
        if context.prompts is not None:
            take_in(embedded, context.prompts)

    embedding.register_forward_hook(hook)


@dataclass(frozen=True, slots=True)
class WrappedBase:
    """All places of deltas in a base, by path; the output head's is of its own, since only some rows reach it."""

    linears: Mapping[str, DeltaLinear]
    norms: Mapping[str, DeltaNorm]
    embeddings: Mapping[str, EmbeddingPlace]
    head: DeltaLinear | None
    bases: Mapping[str, nn.Module]
    """The base's own modules at these places."""


def wrap_base(base: Base, context: StepContext, kernels: Kernels | None = None) -> WrappedBase:
    """Wrap every module of a base that a delta may be at, once; the kernels, if any, compute the linear ones."""
    spec = base.spec
    own_embeddings = {path: base.model.get_submodule(path) for path in spec.embeddings}
    linears = wrap_linears(base.model, spec, context, kernels)
    norms = wrap_norms(base.model, spec, context)
    embeddings = {path: _hook_tables(module, context) for path, module in own_embeddings.items()}
    head = None
    if base.lm_head is not None and spec.output_head is not None:
        head = DeltaLinear(packed(base.lm_head, kernels), spec.output_head, context)
    wrapped: dict[str, DeltaLinear | DeltaNorm] = {**linears, **norms}
    if head is not None:
        wrapped[OUTPUT_HEAD] = head
    bases: dict[str, nn.Module] = {path: module.base for path, module in wrapped.items()}
    return WrappedBase(linears, norms, embeddings, head, bases | own_embeddings)


def _hook_tables(embedding: nn.Module, context: StepContext) -> EmbeddingPlace:
    """Add the tables of each token's slot to what an embedding makes of a step's ids (1, tokens)."""
    place = EmbeddingPlace()

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], embedded: Tensor) -> None:
        step = context.delta
        if step is not None and step.embeddings and place.tables:
            place.add_to(embedded[0], inputs[0][0], step.embeddings)

    embedding.register_forward_hook(hook)
    return place


def wrap_linears(
    backbone: nn.Module, spec: BaseSpec, context: StepContext, kernels: Kernels | None = None
) -> dict[str, DeltaLinear]:
    """Replace each target module by a DeltaLinear around it; returns them by path."""
    own = share_products({path: packed(backbone.get_submodule(path), kernels) for path in spec.targets})
    wrapped: dict[str, DeltaLinear] = {}
    for path, shape in spec.targets.items():
        wrapped[path] = DeltaLinear(own[path], shape, context)
        _replace(backbone, path, wrapped[path])
    for path, linear in wrapped.items():
        source = feedforward_input(spec.model_type, path)
        if source is not None:
            linear.ends = wrapped[source].begins = BlockInput()
    return wrapped


def wrap_norms(backbone: nn.Module, spec: BaseSpec, context: StepContext) -> dict[str, DeltaNorm]:
    """Replace each layer norm that has a bias, or is of a residual sum, by a DeltaNorm around it; returns them by
    path."""
    of_sums = (norm_after(spec.model_type, path) for path in spec.targets)
    sizes = {norm: spec.hidden_size for norm in of_sums if norm is not None} | dict(spec.norms)
    wrapped: dict[str, DeltaNorm] = {}
    for norm, size in sizes.items():
        wrapped[norm] = DeltaNorm(backbone.get_submodule(norm), size, context)
        _replace(backbone, norm, wrapped[norm])
    return wrapped


def _replace(backbone: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(backbone.get_submodule(parent), name, module)

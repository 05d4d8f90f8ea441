"""What the wrapped layers and the attention function read during a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from multigraft_server.engine.rank_space import RankSpace

MASKED_WORK = 32768
"""Tokens x columns up to which one masked product over all groups beats a product per group (measured on a
2-core CPU at hidden sizes 384 and 576: a loop pays three launches per group and layer)."""


@dataclass(frozen=True, slots=True)
class Group:
    """Adjacent tokens (or pooled rows) start..stop of one slot."""

    slot: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class LoraGroup:
    """The tokens of one slot, its columns in the banks, and its scaling per column (columns,)."""

    start: int
    stop: int
    columns: range


@dataclass(frozen=True, slots=True)
class LoraStep:
    """How the LoRA banks work on this step's tokens.

    `first` is the first token that has a LoRA (base tokens come before). With `mask` (tokens - first, columns),
    all groups are computed in one product over `columns`, and `mask` keeps each token to its own adapter.
    Without it, each group is computed on its own.
    """

    first: int
    groups: tuple[LoraGroup, ...]
    columns: range
    mask: Tensor | None


class StepContext:
    """The state of the step that is running; one per engine, entered by the runner.

    `lora` is None outside of a step and in steps without LoRA rows, so that such steps cost what the base costs.
    """

    def __init__(self) -> None:
        self.lora: LoraStep | None = None
        self._entered = False

    @contextmanager
    def step(self, lora: LoraStep | None) -> Iterator[None]:
        """Set the state for the forward passes inside; never nested."""
        assert not self._entered, "a step runs inside another step"
        self._entered, self.lora = True, lora
        try:
            yield
        finally:
            self._entered, self.lora = False, None


def plan_lora(
    groups: Sequence[Group], ranks: RankSpace, device: torch.device, dtype: torch.dtype
) -> LoraStep | None:
    """Choose how the banks compute these groups; None when none of them has a LoRA."""
    lora = tuple(
        LoraGroup(group.start, group.stop, ranks.columns(group.slot))
        for group in groups
        if ranks.columns(group.slot)
    )
    if not lora:
        return None
    first, last = lora[0].start, groups[-1].stop
    columns = range(min(g.columns.start for g in lora), max(g.columns.stop for g in lora))
    one_product = len(lora) > 1 and (last - first) * len(columns) <= MASKED_WORK
    mask = _mask(lora, first, last, columns, device, dtype) if one_product else None
    return LoraStep(first, lora, columns, mask)


def _mask(
    groups: Sequence[LoraGroup],
    first: int,
    last: int,
    columns: range,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    mask = torch.zeros(last - first, len(columns), dtype=dtype)
    for group in groups:
        own = slice(group.columns.start - columns.start, group.columns.stop - columns.start)
        mask[group.start - first : group.stop - first, own] = 1.0
    return mask.to(device)

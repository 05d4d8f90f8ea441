"""From a step's hidden states to one state per pooling row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from multigraft_adapters.manifest import Pooling
from multigraft_server.engine.plan import Group


@dataclass(frozen=True, slots=True)
class PooledPart:
    """A whole row's tokens start..stop in the step, its slot, and which of its states is read."""

    start: int
    stop: int
    slot: int
    pooling: Pooling


def pool(
    hidden: Tensor, parts: Sequence[PooledPart], base_pooler: Callable[[Tensor, Sequence[Group]], Tensor]
) -> Tensor:
    """hidden (tokens, hidden) -> (parts, hidden) in fp32, in the order of `parts` (sorted by slot).

    `base_pooler` computes the base's own pooler over first states; it is told which rows have which slot, since
    a delta may change it too.
    """
    pooled = torch.empty(len(parts), hidden.shape[1], dtype=torch.float32, device=hidden.device)
    for kind in dict.fromkeys(part.pooling for part in parts):
        chosen = [index for index, part in enumerate(parts) if part.pooling == kind]
        own = [parts[index] for index in chosen]
        pooled[chosen] = _states(hidden, own, kind, base_pooler).to(torch.float32)
    return pooled


def _states(
    hidden: Tensor,
    parts: Sequence[PooledPart],
    kind: Pooling,
    base_pooler: Callable[[Tensor, Sequence[Group]], Tensor],
) -> Tensor:
    if kind == "mean":
        return _means(hidden, parts)
    if kind == "last":
        return hidden[[part.stop - 1 for part in parts]]
    first = hidden[[part.start for part in parts]]
    return first if kind == "cls" else base_pooler(first, slot_groups([part.slot for part in parts]))


def _means(hidden: Tensor, parts: Sequence[PooledPart]) -> Tensor:
    lengths = torch.tensor([part.stop - part.start for part in parts], device=hidden.device)
    tokens = torch.cat([torch.arange(part.start, part.stop) for part in parts]).to(hidden.device)
    owners = torch.repeat_interleave(torch.arange(len(parts), device=hidden.device), lengths)
    sums = torch.zeros(len(parts), hidden.shape[1], dtype=torch.float32, device=hidden.device)
    sums.index_add_(0, owners, hidden[tokens].to(torch.float32))
    return sums / lengths[:, None]


def slot_groups(slots: Sequence[int], counts: Sequence[int] | None = None) -> list[Group]:
    """Adjacent entries of one slot as groups; `counts` gives how many tokens each entry has (default one)."""
    groups: list[Group] = []
    place = 0
    for index, slot in enumerate(slots):
        stop = place + (1 if counts is None else counts[index])
        if groups and groups[-1].slot == slot:
            groups[-1] = Group(slot, groups[-1].start, stop)
        else:
            groups.append(Group(slot, place, stop))
        place = stop
    return groups

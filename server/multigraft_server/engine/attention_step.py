"""How attention works on a step: its rows brought into groups that are computed by one product each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multigraft_server.engine.kv import KVCache
from multigraft_server.engine.kv_table import KVRow
from multigraft_server.engine.sequences import SequenceStep

Integers = np.ndarray[Any, np.dtype[np.int64]]

GAP_WORK = 600
"""Token places that are read in vain for a gap between two rows of the KV cache, at most: beyond, a product of its
own is cheaper (measured on a 2-core CPU: about 60 us a product, 0.1 us a place)."""


@dataclass(frozen=True, slots=True)
class PrefixedRow:
    """Tokens start..stop of the step are one complete sequence, after a prefix."""

    start: int
    stop: int
    prefix: Tensor  # (2, layers, heads, virtual tokens, head_dim)


@dataclass(frozen=True, slots=True)
class WholeGroup:
    """Complete sequences of similar lengths, each padded to the longest.

    Where the step holds them side by side and equally long, `places` is None and they begin at `first`. Else
    `places` are the tokens' places in the step, the padding's that of the row's first token; `tokens` are the
    places of the rows' own tokens and `kept` where these lie in the group.
    """

    first: int
    count: int
    longest: int
    places: Tensor | None = None  # (count * longest,)
    kept: Tensor | None = None  # (own tokens,)
    tokens: Tensor | None = None  # (own tokens,)
    lengths: Tensor | None = None  # (count,)


@dataclass(frozen=True, slots=True)
class CachedRow:
    """Tokens start..stop of the step continue a sequence of which `past` tokens are cached, in `kv`."""

    start: int
    stop: int
    past: int
    kv: KVRow


@dataclass(frozen=True, slots=True)
class KVWrite:
    """Which of a step's tokens are cached in rows of one slab, and where: `places` are those of the slab laid out
    (rows * heads * capacity), one for each head of each token."""

    slab: int
    capacity: int
    tokens: Tensor  # (n,)
    places: Tensor  # (n * heads,)


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Rows first..first+count of a slab, most of which compute one token each.

    `order`: the place in the step of each row's token, any for rows in a gap; `kept` are those that are not, None
    when none is; `tokens` their places in the step. `positions`: that of each row's token; `longest`: the tokens
    of the longest.
    """

    slab: int
    capacity: int
    first: int
    count: int
    order: Tensor  # (count,)
    kept: Tensor | None  # (n,)
    tokens: Tensor  # (n,)
    positions: Tensor  # (count,)
    longest: int


@dataclass(frozen=True, slots=True)
class AttentionStep:
    """How attention works on this step's tokens: what is cached of them is written first, then each attends in
    exactly one of the other parts. With `sequences`, the kernel computes `prefixed`, `whole` and `chunks` at once
    in the layers that it takes."""

    causal: bool
    prefixed: Sequence[PrefixedRow] = ()
    whole: Sequence[WholeGroup] = ()
    chunks: Sequence[CachedRow] = ()
    decodes: Sequence[DecodeGroup] = ()
    writes: Sequence[KVWrite] = ()
    kv: KVCache | None = None
    sequences: SequenceStep | None = None
    masks: dict[object, Tensor | None] = field(default_factory=dict)

    def chunk_mask(self, length: int, past: int, window: int | None, device: torch.device) -> Tensor:
        """(length, past + length): True where the last `length` tokens of a sequence may look; made once a step.

        A token sees those less than `window` places away: before it, and after it too where nothing is causal.
        """
        key = ("chunk", length, past, window)
        if key not in self.masks:
            away = torch.arange(past, past + length, device=device)[:, None] - torch.arange(
                past + length, device=device
            )
            seen = away >= 0 if self.causal else torch.ones_like(away, dtype=torch.bool)
            self.masks[key] = seen if window is None else seen & (away.abs() < window)
        return _made(self.masks[key])

    def whole_mask(self, index: int, window: int | None, dtype: torch.dtype, *, explicit: bool) -> Tensor | None:
        """What the rows of a group may see, 0 or -inf, (count or 1, 1, 1 or longest, longest); None where that
        follows from being causal, unless it must be `explicit`, or where they see everything."""
        group = self.whole[index]
        near = window is not None and group.longest > window
        key = ("whole", index, window if near else None, explicit)
        if key not in self.masks:
            needed = near or (explicit and self.causal) or (group.lengths is not None and not self.causal)
            self.masks[key] = self._whole_mask(group, window if near else None, dtype) if needed else None
        return self.masks[key]

    def decode_mask(self, index: int, window: int | None, dtype: torch.dtype) -> Tensor:
        """(count, 1, 1, longest): 0 where a row may look, -inf beyond its length and before its window."""
        key = ("decode", index, window)
        if key not in self.masks:
            group = self.decodes[index]
            places = torch.arange(group.longest, device=group.positions.device)
            seen = places <= group.positions[:, None]
            if window is not None:
                seen &= places > group.positions[:, None] - window
            self.masks[key] = _additive(seen, dtype)[:, None, None, :]
        return _made(self.masks[key])

    def _whole_mask(self, group: WholeGroup, window: int | None, dtype: torch.dtype) -> Tensor:
        device = None if group.lengths is None else group.lengths.device
        places = torch.arange(group.longest, device=device)
        seen = torch.ones(1, 1, group.longest, dtype=torch.bool, device=device)
        if group.lengths is not None:
            seen = (places < group.lengths[:, None])[:, None, :]
        if self.causal or window is not None:
            seen = seen & self.chunk_mask(group.longest, 0, window, places.device)
        return _additive(seen, dtype)[:, None]


def writes_of(rows: Iterable[CachedRow], heads: int, device: torch.device) -> list[KVWrite]:
    """Where the rows' keys and values are cached, slab by slab."""
    writes = []
    for (slab, capacity), own in _by_slab(rows).items():
        tokens = np.concatenate([np.arange(row.start, row.stop) for row in own])
        firsts = [
            np.arange(row.past, row.past + row.stop - row.start) + row.kv.index * heads * capacity for row in own
        ]
        places = np.concatenate(firsts)[:, None] + np.arange(heads) * capacity
        writes.append(KVWrite(slab, capacity, _tensor(tokens, device), _tensor(places.reshape(-1), device)))
    return writes


def group_decodes(rows: Iterable[CachedRow], device: torch.device) -> list[DecodeGroup]:
    """Rows of one token each: those that lie near each other in one slab become one group."""
    groups = []
    for own in _by_slab(rows).values():
        own.sort(key=lambda row: row.kv.index)
        most = max(1, GAP_WORK // (1 + max(row.past for row in own)))
        start = 0
        for end in range(1, len(own) + 1):
            if end == len(own) or own[end].kv.index - own[end - 1].kv.index - 1 > most:
                groups.append(_decode_group(own[start:end], device))
                start = end
    return groups


class LazyWholes(Sequence[WholeGroup]):
    """The groups of complete sequences, made when they are asked for: the kernel needs none."""

    def __init__(self, rows: Sequence[tuple[int, int]], device: torch.device) -> None:
        self._rows = rows
        self._device = device
        self._groups: list[WholeGroup] | None = None

    def __bool__(self) -> bool:
        return bool(self._rows)

    def __len__(self) -> int:
        return len(self._made())

    def __getitem__(self, index: Any) -> Any:
        return self._made()[index]

    def _made(self) -> list[WholeGroup]:
        if self._groups is None:
            self._groups = group_wholes(self._rows, self._device)
        return self._groups


def group_wholes(rows: Sequence[tuple[int, int]], device: torch.device) -> list[WholeGroup]:
    """Complete sequences start..stop of a step, those at least half as long as the longest of them together."""
    groups: list[WholeGroup] = []
    left = sorted(rows, key=lambda row: row[0] - row[1])
    while left:
        longest = left[0][1] - left[0][0]
        end = next((i for i, (start, stop) in enumerate(left) if 2 * (stop - start) < longest), len(left))
        groups.append(_whole_group(sorted(left[:end]), longest, device))
        left = left[end:]
    return groups


def _by_slab(rows: Iterable[CachedRow]) -> dict[tuple[int, int], list[CachedRow]]:
    by_slab: dict[tuple[int, int], list[CachedRow]] = defaultdict(list)
    for row in rows:
        by_slab[row.kv.slab, row.kv.capacity].append(row)
    return by_slab


def _decode_group(rows: Sequence[CachedRow], device: torch.device) -> DecodeGroup:
    kv, count = rows[0].kv, rows[-1].kv.index - rows[0].kv.index + 1
    order, positions = [rows[0].start] * count, [0] * count
    for row in rows:
        order[row.kv.index - kv.index], positions[row.kv.index - kv.index] = row.start, row.past
    kept = [row.kv.index - kv.index for row in rows]
    return DecodeGroup(
        slab=kv.slab,
        capacity=kv.capacity,
        first=kv.index,
        count=count,
        order=_tensor(order, device),
        kept=None if count == len(rows) else _tensor(kept, device),
        tokens=_tensor([row.start for row in rows], device),
        positions=_tensor(positions, device),
        longest=max(positions) + 1,
    )


def _tensor(values: Sequence[int] | Integers, device: torch.device) -> Tensor:
    return torch.as_tensor(values, device=device)


def _whole_group(rows: Sequence[tuple[int, int]], longest: int, device: torch.device) -> WholeGroup:
    first, count = rows[0][0], len(rows)
    if all(row == (first + i * longest, first + (i + 1) * longest) for i, row in enumerate(rows)):
        return WholeGroup(first, count, longest)
    starts, stops = torch.tensor(rows, device=device).T
    within = torch.arange(longest, device=device)
    own = within < (stops - starts)[:, None]
    places = starts[:, None] + within * own
    kept = own.flatten().nonzero().flatten()
    return WholeGroup(first, count, longest, places.flatten(), kept, places[own], stops - starts)


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)


def _made(mask: Tensor | None) -> Tensor:
    assert mask is not None
    return mask

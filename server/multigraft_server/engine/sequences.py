"""Rows with several tokens in a step, for the compiled kernel that attends to all of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from multigraft_server.engine.kernels import Kernels
from multigraft_server.engine.kernels.many import TILE, ManyTokens
from multigraft_server.engine.kv import KVCache
from multigraft_server.engine.kv_table import KVRow


@dataclass(frozen=True, slots=True)
class Past:
    """Keys and values of the `count` tokens before a row's own: where they lie in the first layer, the numbers
    from head to head, the bytes from layer to layer."""

    count: int = 0
    keys: int = 0
    values: int = 0
    head_stride: int = 0
    layer_bytes: int = 0

    @staticmethod
    def of_prefix(prefix: Tensor) -> Past:
        """What a prefix (2, layers, heads, tokens, head_dim) puts before a row; it must stay alive."""
        own, layer = prefix.stride(0) * prefix.itemsize, prefix.stride(1) * prefix.itemsize
        keys = prefix.data_ptr()
        return Past(prefix.shape[3], keys, keys + own, prefix.stride(2), layer)

    @staticmethod
    def of_cache(kv: KVCache, row: KVRow, count: int) -> Past:
        """The first tokens of a row in the cache."""
        keys, layer = kv.address(row), kv.layer_bytes()
        return Past(count, keys, keys + kv.layout.layers * layer, row.capacity * kv.layout.head_dim, layer)


@dataclass(frozen=True, slots=True)
class SequenceStep:
    """The rows as the kernel reads them, and the tokens of the longest with its past."""

    kernels: ManyTokens
    table: Tensor  # (rows, 7)
    longest: int

    def takes(self, size: int, window: int | None, softcap: float | None) -> bool:
        """Whether the kernel computes a layer with heads of this size that looks back so far."""
        return size % TILE == 0 and softcap is None and (window is None or self.longest <= window)

    def attend(
        self, out: Tensor, query: Tensor, key: Tensor, value: Tensor, *, layer: int, scaling: float, causal: bool
    ) -> None:
        """All rows' attention into `out` (tokens, heads, size); query, key and value are of the whole step."""
        query, key, value = (part if part.stride(2) == 1 else part.contiguous() for part in (query, key, value))
        self.kernels.attend(query, key, value, out, self.table, layer=layer, scaling=scaling, causal=causal)


def plan_sequences(rows: Sequence[tuple[int, int, Past]], kernels: Kernels | None) -> SequenceStep | None:
    """How the kernel computes rows start..stop of a step with their pasts; None when there is nothing for it."""
    if kernels is None or not rows:
        return None
    numbers = [
        (start, stop - start, past.count, past.head_stride, past.layer_bytes, past.keys, past.values)
        for start, stop, past in rows
    ]
    longest = max(stop - start + past.count for start, stop, past in rows)
    return SequenceStep(kernels.many, torch.from_numpy(np.array(numbers, dtype=np.int64)), longest)

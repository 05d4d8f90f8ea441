"""What fused attention reads of a step: where its tokens are cached, and which go on from there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from multigraft_server.engine.attention_step import CachedRow
from multigraft_server.engine.kv import KVCache


@dataclass(frozen=True, slots=True)
class FusedStep:
    """`cached` (tokens, 3) and `layouts` (layers, 5) as the kernels read them; `decodes` (n,) are the tokens that
    go on a row by one, over `work` numbers of keys and values in each layer. `at_once`: all layers can be one
    call, and that is worth it."""

    cached: Tensor
    layouts: Sequence[Tensor]
    decodes: Tensor
    work: int
    at_once: bool


MOST_PAIRS = 64 * 1024
"""Pairs of a token and one that it looks at, in rows of several tokens of a step, up to which attention token by
token is quicker than going through the layers one by one (16 prompts of 75 tokens are 45,000)."""


class FusedSteps:
    """Makes them, for one KV cache."""

    def __init__(self, query_heads: int, kv: KVCache) -> None:
        layout, size = kv.layout, kv.layer_bytes()
        self._kv = kv
        self._numbers = 2 * layout.heads * layout.head_dim
        self.layouts = [
            torch.tensor(
                [query_heads, layout.heads, layout.head_dim, layer * size, (layout.layers + layer) * size]
            )
            for layer in range(layout.layers)
        ]

    def make(self, tokens: int, rows: Sequence[CachedRow]) -> FusedStep:
        """Of a step of so many tokens, in which these rows are cached."""
        cached = np.zeros((tokens, 3), dtype=np.int64)
        decodes, seen, pairs = [], 0, 0
        for row in rows:
            part = cached[row.start : row.stop]
            part[:, 0], part[:, 1] = self._kv.address(row.kv), row.kv.capacity
            part[:, 2] = np.arange(row.past, row.past + row.stop - row.start)
            count = row.stop - row.start
            if row.past > 0 and count == 1:
                decodes.append(row.start)
                seen += row.past + 1
            else:
                pairs += count * (row.past + (count + 1) // 2)
        return FusedStep(
            cached=torch.from_numpy(cached),
            layouts=self.layouts,
            decodes=torch.tensor(decodes, dtype=torch.int64),
            work=seen * self._numbers,
            at_once=sum(row.stop - row.start for row in rows) == tokens and pairs <= MOST_PAIRS,
        )

"""The prefix cache's tensors: blocks of keys and values, copied from rows of the KV cache and into them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from multigraft_adapters.bases import KVLayout
from multigraft_server.engine.kv import KVCache
from multigraft_server.engine.kv_table import KVRow
from multigraft_server.engine.prefix_table import BLOCK_TOKENS


class PrefixStore:
    """Keys and values of blocks of tokens, by place; memory is taken when the first block is saved.

    Copies leave the rows of the KV cache where they are, side by side, and cost some percent of computing.
    """

    def __init__(self, kv: KVCache, num_blocks: int) -> None:
        self._kv = kv
        self._num_blocks = num_blocks
        self._blocks: Tensor | None = None  # (places, 2, layers, heads, BLOCK_TOKENS, head_dim)

    @property
    def num_bytes(self) -> int:
        return 0 if self._blocks is None else self._blocks.nbytes

    def save(self, place: int, row: KVRow, start: int) -> None:
        """Copy a block from a row's token `start` on to a place."""
        tokens = self._kv.tokens(row, start, start + BLOCK_TOKENS)
        if self._blocks is None:
            self._blocks = tokens.new_empty(self._num_blocks, *tokens.shape)
        self._blocks[place].copy_(tokens)

    def restore(self, places: Sequence[int], row: KVRow) -> None:
        """Copy blocks into a row's first tokens."""
        assert self._blocks is not None  # the table knows of saved blocks only
        self._kv.ensure(row.slab)
        for index, place in enumerate(places):
            start = index * BLOCK_TOKENS
            self._kv.tokens(row, start, start + BLOCK_TOKENS).copy_(self._blocks[place])


def num_blocks_for(layout: KVLayout, num_bytes: int, dtype: torch.dtype) -> int:
    """How many blocks a budget of bytes holds."""
    return num_bytes // (BLOCK_TOKENS * layout.numbers_per_token * dtype.itemsize)

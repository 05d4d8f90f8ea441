"""The prefix cache's tensors: blocks of keys and values, copied from rows of the KV cache and into them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from multigraft_adapters.bases import KVLayout
from multigraft_server.engine.kv import KVCache
from multigraft_server.engine.kv_table import KVRow
from multigraft_server.engine.prefix_table import BLOCK_TOKENS


class PrefixStore:
    """Keys and values of blocks of tokens, by place; memory is taken when the first block is saved.

    Copies leave the rows of the KV cache where they are, side by side, and cost a percent of computing.
    """

    def __init__(self, kv: KVCache, num_blocks: int) -> None:
        self._kv = kv
        self._num_tokens = num_blocks * BLOCK_TOKENS
        self._kept: Tensor | None = None  # (2, layers, heads, tokens of all places, head_dim)

    @property
    def num_bytes(self) -> int:
        return 0 if self._kept is None else self._kept.nbytes

    def save(self, blocks: Iterable[tuple[int, int]], row: KVRow) -> None:
        """Copy blocks of a row, each named by its place here and its first token there."""
        for place, start, count in _runs(blocks):
            tokens = self._kv.tokens(row, start, start + count)
            if self._kept is None:
                *before, _, head_dim = tokens.shape
                self._kept = tokens.new_empty(*before, self._num_tokens, head_dim)
            self._kept[:, :, :, place : place + count].copy_(tokens)

    def restore(self, blocks: Iterable[tuple[int, int]], row: KVRow) -> None:
        """Copy blocks into a row, named as in `save`."""
        assert self._kept is not None  # the table knows of saved blocks only
        self._kv.ensure(row.slab)
        for place, start, count in _runs(blocks):
            self._kv.tokens(row, start, start + count).copy_(self._kept[:, :, :, place : place + count])


def _runs(blocks: Iterable[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Tokens that lie side by side in both, as few runs: first token here, first token there, how many."""
    runs: list[tuple[int, int, int]] = []
    for place, start in blocks:
        here = place * BLOCK_TOKENS
        if runs and (here, start) == (runs[-1][0] + runs[-1][2], runs[-1][1] + runs[-1][2]):
            runs[-1] = (runs[-1][0], runs[-1][1], runs[-1][2] + BLOCK_TOKENS)
        else:
            runs.append((here, start, BLOCK_TOKENS))
    return runs


def num_blocks_for(layout: KVLayout, num_bytes: int, dtype: torch.dtype) -> int:
    """How many blocks a budget of bytes holds."""
    return num_bytes // (BLOCK_TOKENS * layout.numbers_per_token * dtype.itemsize)

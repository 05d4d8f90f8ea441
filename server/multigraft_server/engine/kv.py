"""The KV cache's tensors: one slab of keys and one of values per layer."""

from __future__ import annotations

import torch
from torch import Tensor

from multigraft_adapters.bases import KVLayout
from multigraft_server.engine.kv_table import KVRow


class KVCache:
    """Keys and values by slab and layer; a slab is allocated when its first row is.

    Rows are contiguous: a slab carved into rows of one capacity is viewed as (rows, heads, capacity, head_dim).
    Places that were never written are zero, so that masked positions never bring NaN into a product.
    """

    def __init__(self, layout: KVLayout, slab_tokens: int, device: torch.device, dtype: torch.dtype) -> None:
        self.layout = layout
        self.slab_tokens = slab_tokens
        self._device = device
        self._dtype = dtype
        self._views: dict[tuple[int, int, int], tuple[Tensor, Tensor]] = {}
        self._slabs: dict[int, Tensor] = {}  # (2, layers, slab_tokens * heads * head_dim)

    @property
    def num_bytes(self) -> int:
        return sum(slab.nbytes for slab in self._slabs.values())

    def ensure(self, slab: int) -> None:
        """Allocate a slab's tensors where that has not been done yet."""
        if slab not in self._slabs:
            numbers = self.slab_tokens * self.layout.heads * self.layout.head_dim
            self._slabs[slab] = torch.zeros(2, self.layout.layers, numbers, device=self._device, dtype=self._dtype)

    def address(self, row: KVRow) -> int:
        """Where a row's first key in the first layer lies in memory."""
        numbers = row.index * self.layout.heads * row.capacity * self.layout.head_dim
        return self._slabs[row.slab].data_ptr() + numbers * self._dtype.itemsize

    def layer_bytes(self) -> int:
        """From a row's keys in one layer to those in the next; its values are as many layers further."""
        return self.slab_tokens * self.layout.heads * self.layout.head_dim * self._dtype.itemsize

    def write(self, row: KVRow, prefix: Tensor) -> None:
        """Put keys and values (2, layers, heads, tokens, head_dim) into a row's first places."""
        self.tokens(row, 0, prefix.shape[3]).copy_(prefix)

    def tokens(self, row: KVRow, start: int, stop: int) -> Tensor:
        """The keys and values of a row's places start..stop: a view (2, layers, heads, tokens, head_dim)."""
        rows, (heads, head_dim) = self.slab_tokens // row.capacity, (self.layout.heads, self.layout.head_dim)
        used = self._slabs[row.slab][:, :, : rows * heads * row.capacity * head_dim]
        by_row = used.view(2, self.layout.layers, rows, heads, row.capacity, head_dim)
        return by_row[:, :, row.index, :, start:stop]

    def view(self, slab: int, capacity: int, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a slab at one layer, each (rows, heads, capacity, head_dim)."""
        key = (slab, capacity, layer)
        if key not in self._views:
            rows, heads, head_dim = self.slab_tokens // capacity, self.layout.heads, self.layout.head_dim
            used = self._slabs[slab][:, layer, : rows * heads * capacity * head_dim]
            keys, values = used.view(2, rows, heads, capacity, head_dim).unbind(0)
            self._views[key] = keys, values
        return self._views[key]


def slab_tokens_for(max_length: int) -> int:
    """Token places of a slab: room for the longest row, and for many short ones."""
    return max(max_length, 4096)


def num_slabs_for(layout: KVLayout, slab_tokens: int, kv_bytes: int, dtype: torch.dtype) -> int:
    """How many slabs a budget of bytes holds; at least one."""
    return max(1, kv_bytes // (slab_tokens * layout.numbers_per_token * dtype.itemsize))


__all__ = ["KVCache", "KVRow", "num_slabs_for", "slab_tokens_for"]

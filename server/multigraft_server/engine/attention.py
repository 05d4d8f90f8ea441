"""The attention function that packed steps run under, registered with transformers.

It attends per row: whole rows (encoder inputs, pooling on decoders) among their own tokens; rows with a KV cache
write their keys and values and attend to all that they have. Nothing is padded between rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from multigraft_server.engine.kv import KVCache
from multigraft_server.engine.kv_table import KVRow

ATTENTION_NAME = "multigraft"


@dataclass(frozen=True, slots=True)
class WholeRow:
    """Tokens start..stop of the step are one complete sequence."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """Tokens start..stop of the step continue a sequence of which `past` tokens are cached."""

    start: int
    stop: int
    past: int
    kv: KVRow


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Rows of one slab that each compute one token.

    `tokens`: their places in the step; `rows`: their rows in the slab, a slice where they lie side by side;
    `positions`: the cache position that each writes; `longest`: the longest of them, its new token included.
    """

    slab: int
    capacity: int
    tokens: Tensor  # (n,)
    rows: Tensor  # (n,)
    row_slice: slice | None
    positions: Tensor  # (n,)
    longest: int
    masks: dict[int | None, Tensor] = field(default_factory=dict)  # by window: (n, 1, 1, longest)

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """0 where a row may look, -inf beyond its length and before its window; made once a step."""
        if window not in self.masks:
            places = torch.arange(self.longest, device=self.positions.device)
            seen = places <= self.positions[:, None]
            if window is not None:
                seen &= places > self.positions[:, None] - window
            mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)
            self.masks[window] = mask[:, None, None, :]
        return self.masks[window]


@dataclass(frozen=True, slots=True)
class AttentionStep:
    """How attention works on this step's tokens; every token is in exactly one part."""

    causal: bool
    whole: Sequence[WholeRow] = ()
    chunks: Sequence[ChunkRow] = ()
    decodes: Sequence[DecodeGroup] = ()
    kv: KVCache | None = None


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    attention_step: AttentionStep,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query (1, heads, tokens, head_dim), key and value (1, kv_heads, tokens, head_dim)
    -> (1, tokens, heads, head_dim). `attention_mask` is always None in a packed step."""
    out = query.new_empty(1, query.shape[2], query.shape[1], query.shape[3])
    for whole in attention_step.whole:
        part = slice(whole.start, whole.stop)
        attended = _attend(
            query[:, :, part],
            key[:, :, part],
            value[:, :, part],
            scaling,
            causal=attention_step.causal,
            past=0,
            window=sliding_window,
        )
        out[:, part] = attended.transpose(1, 2)
    if attention_step.kv is not None:
        layer: int = module.layer_idx  # type: ignore[assignment]
        for chunk in attention_step.chunks:
            _attend_chunk(out, query, key, value, scaling, chunk, attention_step.kv, layer, sliding_window)
        for group in attention_step.decodes:
            _attend_decodes(out, query, key, value, scaling, group, attention_step.kv, layer, sliding_window)
    return out, None


def _attend_chunk(
    out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    chunk: ChunkRow,
    kv: KVCache,
    layer: int,
    window: int | None,
) -> None:
    keys, values = kv.view(chunk.kv.slab, chunk.kv.capacity, layer)
    part, end = slice(chunk.start, chunk.stop), chunk.past + chunk.stop - chunk.start
    keys[chunk.kv.index, :, chunk.past : end] = key[0, :, part]
    values[chunk.kv.index, :, chunk.past : end] = value[0, :, part]
    attended = _attend(
        query[:, :, part],
        keys[chunk.kv.index, None, :, :end],
        values[chunk.kv.index, None, :, :end],
        scaling,
        causal=True,
        past=chunk.past,
        window=window,
    )
    out[:, part] = attended.transpose(1, 2)


def _attend_decodes(
    out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    group: DecodeGroup,
    kv: KVCache,
    layer: int,
    window: int | None,
) -> None:
    keys, values = kv.view(group.slab, group.capacity, layer)
    keys[group.rows, :, group.positions] = key[0, :, group.tokens].transpose(0, 1)
    values[group.rows, :, group.positions] = value[0, :, group.tokens].transpose(0, 1)
    rows: Tensor | slice = group.rows if group.row_slice is None else group.row_slice
    num, kv_heads, head_dim = len(group.rows), key.shape[1], key.shape[3]
    # The query heads that share a KV head are folded into the query length: one small product, no copies of KV.
    folded = query[0, :, group.tokens].transpose(0, 1).reshape(num, kv_heads, -1, head_dim)
    attended = scaled_dot_product_attention(
        folded,
        keys[rows][:, :, : group.longest],
        values[rows][:, :, : group.longest],
        attn_mask=group.mask(window, query.dtype),
        scale=scaling,
    )
    out[0, group.tokens] = attended.reshape(num, -1, head_dim)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    *,
    causal: bool,
    past: int,
    window: int | None,
) -> Tensor:
    length, seen = query.shape[2], key.shape[2]
    windowed = window is not None and seen > window
    mask = _causal_mask(length, past, window, query.device) if causal and (past or windowed) else None
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=causal and mask is None,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _causal_mask(length: int, past: int, window: int | None, device: torch.device) -> Tensor:
    at = torch.arange(past, past + length, device=device)[:, None]
    to = torch.arange(past + length, device=device)[None, :]
    seen = to <= at
    return seen if window is None else seen & (to > at - window)


AttentionInterface.register(ATTENTION_NAME, packed_attention)

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
    """Tokens start..stop of the step are one complete sequence, after a prefix if there is one."""

    start: int
    stop: int
    prefix: Tensor | None = None  # (2, layers, heads, virtual tokens, head_dim)


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
    masks: dict[tuple[int, int, int | None], Tensor] = field(default_factory=dict)  # by length, past and window

    def mask(self, length: int, past: int, window: int | None, device: torch.device) -> Tensor:
        """(length, past + length): True where the last `length` tokens of a sequence may look; made once a step.

        A token sees those less than `window` places away: before it, and after it too where nothing is causal.
        """
        key = (length, past, window)
        if key not in self.masks:
            away = torch.arange(past, past + length, device=device)[:, None] - torch.arange(
                past + length, device=device
            )
            seen = away >= 0 if self.causal else torch.ones_like(away, dtype=torch.bool)
            self.masks[key] = seen if window is None else seen & (away.abs() < window)
        return self.masks[key]


@dataclass(frozen=True, slots=True)
class _Layer:
    """How one layer attends. `softcap` bounds its scores: softcap * tanh(score / softcap)."""

    scaling: float
    window: int | None
    softcap: float | None


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
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query (1, heads, tokens, head_dim), key and value (1, kv_heads, tokens, head_dim)
    -> (1, tokens, heads, head_dim). `attention_mask` is always None in a packed step."""
    out = query.new_empty(1, query.shape[2], query.shape[1], query.shape[3])
    layer = _Layer(scaling, sliding_window, softcap)
    for whole in attention_step.whole:
        part = slice(whole.start, whole.stop)
        keys, values = key[:, :, part], value[:, :, part]
        if whole.prefix is not None:
            keys, values = _after_prefix(whole.prefix, module, keys, values)
        attended = _attend(query[:, :, part], keys, values, layer, attention_step)
        out[:, part] = attended.transpose(1, 2)
    if attention_step.kv is not None:
        place: int = module.layer_idx  # type: ignore[assignment]
        for chunk in attention_step.chunks:
            cached = attention_step.kv.view(chunk.kv.slab, chunk.kv.capacity, place)
            _attend_chunk(out, query, key, value, layer, chunk, cached, attention_step)
        for group in attention_step.decodes:
            cached = attention_step.kv.view(group.slab, group.capacity, place)
            _attend_decodes(out, query, key, value, layer, group, cached)
    return out, None


def _after_prefix(prefix: Tensor, module: nn.Module, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values (1, heads, tokens, head_dim) with those of a prefix at this layer before them."""
    place: int = module.layer_idx  # type: ignore[assignment]
    own_keys, own_values = prefix[:, place]
    return torch.cat([own_keys[None], keys], dim=2), torch.cat([own_values[None], values], dim=2)


def _attend_chunk(
    out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layer: _Layer,
    chunk: ChunkRow,
    cached: tuple[Tensor, Tensor],
    step: AttentionStep,
) -> None:
    keys, values = cached
    part, end = slice(chunk.start, chunk.stop), chunk.past + chunk.stop - chunk.start
    keys[chunk.kv.index, :, chunk.past : end] = key[0, :, part]
    values[chunk.kv.index, :, chunk.past : end] = value[0, :, part]
    seen_keys, seen_values = keys[chunk.kv.index, None, :, :end], values[chunk.kv.index, None, :, :end]
    attended = _attend(query[:, :, part], seen_keys, seen_values, layer, step)
    out[:, part] = attended.transpose(1, 2)


def _attend_decodes(
    out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layer: _Layer,
    group: DecodeGroup,
    cached: tuple[Tensor, Tensor],
) -> None:
    keys, values = cached
    keys[group.rows, :, group.positions] = key[0, :, group.tokens].transpose(0, 1)
    values[group.rows, :, group.positions] = value[0, :, group.tokens].transpose(0, 1)
    rows: Tensor | slice = group.rows if group.row_slice is None else group.row_slice
    num, kv_heads, head_dim = len(group.rows), key.shape[1], key.shape[3]
    # The query heads that share a KV head are folded into the query length: one small product, no copies of KV.
    folded = query[0, :, group.tokens].transpose(0, 1).reshape(num, kv_heads, -1, head_dim)
    attended = _product(
        folded,
        keys[rows][:, :, : group.longest],
        values[rows][:, :, : group.longest],
        layer,
        group.mask(layer.window, query.dtype),
    )
    out[0, group.tokens] = attended.reshape(num, -1, head_dim)


def _attend(query: Tensor, key: Tensor, value: Tensor, layer: _Layer, step: AttentionStep) -> Tensor:
    """The last tokens of one sequence, `query`, over all of it."""
    length, seen = query.shape[2], key.shape[2]
    window = layer.window if layer.window is not None and seen > layer.window else None
    by_mask = window is not None or (step.causal and (seen > length or layer.softcap is not None))
    mask = step.mask(length, seen - length, window, query.device) if by_mask else None
    return _product(query, key, value, layer, mask, causal=step.causal and not by_mask)


def _product(
    query: Tensor, key: Tensor, value: Tensor, layer: _Layer, mask: Tensor | None, *, causal: bool = False
) -> Tensor:
    """Attention of queries (n, heads, q, head_dim) over keys and values (n, kv_heads, k, head_dim)."""
    if layer.softcap is not None:
        return _capped_product(query, key, value, layer.scaling, layer.softcap, mask)
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=causal,
        scale=layer.scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _capped_product(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, softcap: float, mask: Tensor | None
) -> Tensor:
    """What torch's attention cannot do: scores that are bounded before the mask and the softmax in fp32."""
    shared = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(shared, dim=1), value.repeat_interleave(shared, dim=1)
    scores = torch.tanh(query @ key.transpose(2, 3) * (scaling / softcap)) * softcap
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype) @ value


AttentionInterface.register(ATTENTION_NAME, packed_attention)

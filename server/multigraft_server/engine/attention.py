"""The attention function that packed steps run under, registered with transformers.

It attends per row: complete rows (encoder inputs, pooling on decoders) among their own tokens; rows with a KV
cache write their keys and values and attend to all that they have. No linear layer ever sees padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from multigraft_server.engine.attention_step import (
    AttentionStep,
    CachedRow,
    DecodeGroup,
    KVWrite,
    PrefixedRow,
    WholeGroup,
)

ATTENTION_NAME = "multigraft"


@dataclass(frozen=True, slots=True)
class _Layer:
    """How one layer attends. `softcap` bounds its scores: softcap * tanh(score / softcap)."""

    scaling: float
    window: int | None
    softcap: float | None


@dataclass(frozen=True, slots=True)
class _States:
    """One layer's queries (tokens, heads, head_dim), keys and values (tokens, kv_heads, head_dim)."""

    query: Tensor
    key: Tensor
    value: Tensor


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
    states = _States(query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1))
    layer, step = _Layer(scaling, sliding_window, softcap), attention_step
    out = query.new_empty(states.query.shape)
    place: int = getattr(module, "layer_idx", 0)
    for write in step.writes:
        _cache(states, write, place, step)
    _attend_many(out, states, layer, place, step)
    for index, group in enumerate(step.decodes):
        _attend_decodes(out, states, layer, group, place, step, index)
    return out[None], None


def attend_many(
    out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    place: int,
    step: AttentionStep,
    *,
    scaling: float,
    window: int | None,
) -> None:
    """Attention of the rows that have several tokens in a step whose keys and values are cached already, at layer
    `place`: query (tokens, heads, head_dim), key and value (tokens, kv_heads, head_dim) into `out`."""
    _attend_many(out, _States(query, key, value), _Layer(scaling, window, None), place, step)


def _attend_many(out: Tensor, states: _States, layer: _Layer, place: int, step: AttentionStep) -> None:
    rows = step.sequences
    if rows is not None and rows.takes(out.shape[2], layer.window, layer.softcap):
        own = (states.query, states.key, states.value)
        rows.attend(out, *own, layer=place, scaling=layer.scaling, causal=step.causal)
        return
    for index, whole in enumerate(step.whole):
        _attend_wholes(out, states, layer, whole, step, index)
    for prefixed in step.prefixed:
        _attend_after_prefix(out, states, layer, prefixed, place, step)
    for chunk in step.chunks:
        _attend_chunk(out, states, layer, chunk, place, step)


def _attend_wholes(
    out: Tensor, states: _States, layer: _Layer, group: WholeGroup, step: AttentionStep, index: int
) -> None:
    mask = step.whole_mask(index, layer.window, states.query.dtype, explicit=layer.softcap is not None)
    query, key, value = (
        _padded(part, group).view(group.count, group.longest, *part.shape[1:]).transpose(1, 2)
        for part in (states.query, states.key, states.value)
    )
    attended = _product(query, key, value, layer, mask, causal=step.causal and mask is None)
    flat = attended.transpose(1, 2).flatten(0, 1)
    if group.tokens is None or group.kept is None:
        out[group.first : group.first + len(flat)] = flat
    else:
        out.index_copy_(0, group.tokens, flat.index_select(0, group.kept))


def _padded(part: Tensor, group: WholeGroup) -> Tensor:
    """A group's tokens (count * longest, heads, head_dim) out of a step's."""
    if group.places is None:
        return part[group.first : group.first + group.count * group.longest]
    return part.index_select(0, group.places)


def _attend_after_prefix(
    out: Tensor, states: _States, layer: _Layer, row: PrefixedRow, place: int, step: AttentionStep
) -> None:
    part = slice(row.start, row.stop)
    own_keys, own_values = row.prefix[:, place]
    keys = torch.cat([own_keys, states.key[part].transpose(0, 1)], dim=1)
    values = torch.cat([own_values, states.value[part].transpose(0, 1)], dim=1)
    out[part] = _continued(states.query[part], keys, values, layer, step)


def _cache(states: _States, write: KVWrite, place: int, step: AttentionStep) -> None:
    """Put the written tokens' keys and values into the cache."""
    assert step.kv is not None  # what is written has rows in it
    for cached, new in zip(
        step.kv.view(write.slab, write.capacity, place), (states.key, states.value), strict=True
    ):
        own = new.index_select(0, write.tokens).flatten(0, 1)
        cached.view(-1, new.shape[2]).index_copy_(0, write.places, own)


def _attend_chunk(
    out: Tensor, states: _States, layer: _Layer, chunk: CachedRow, place: int, step: AttentionStep
) -> None:
    assert step.kv is not None  # chunks have rows in it
    keys, values = step.kv.view(chunk.kv.slab, chunk.kv.capacity, place)
    part, end = slice(chunk.start, chunk.stop), chunk.past + chunk.stop - chunk.start
    seen_keys, seen_values = keys[chunk.kv.index, :, :end], values[chunk.kv.index, :, :end]
    out[part] = _continued(states.query[part], seen_keys, seen_values, layer, step)


def _attend_decodes(
    out: Tensor,
    states: _States,
    layer: _Layer,
    group: DecodeGroup,
    place: int,
    step: AttentionStep,
    index: int,
) -> None:
    assert step.kv is not None  # decoding rows are in it
    keys, values = step.kv.view(group.slab, group.capacity, place)
    kv_heads, head_dim = states.key.shape[1:]
    rows = slice(group.first, group.first + group.count)
    # The query heads that share a KV head are folded into the query length: one small product, no copies of KV.
    folded = states.query.index_select(0, group.order).view(group.count, kv_heads, -1, head_dim)
    attended = _product(
        folded,
        keys[rows, :, : group.longest],
        values[rows, :, : group.longest],
        layer,
        step.decode_mask(index, layer.window, folded.dtype),
    ).reshape(group.count, -1, head_dim)
    kept = attended if group.kept is None else attended.index_select(0, group.kept)
    out.index_copy_(0, group.tokens, kept)


def _continued(query: Tensor, key: Tensor, value: Tensor, layer: _Layer, step: AttentionStep) -> Tensor:
    """The last tokens of one sequence, `query` (tokens, heads, head_dim), over all of it, `key` and `value`
    (kv_heads, all tokens, head_dim) -> (tokens, heads, head_dim)."""
    length, seen = query.shape[0], key.shape[1]
    window = layer.window if layer.window is not None and seen > layer.window else None
    by_mask = window is not None or (step.causal and (seen > length or layer.softcap is not None))
    mask = step.chunk_mask(length, seen - length, window, query.device) if by_mask else None
    causal = step.causal and not by_mask
    attended = _product(query.transpose(0, 1)[None], key[None], value[None], layer, mask, causal=causal)
    return attended[0].transpose(0, 1)


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

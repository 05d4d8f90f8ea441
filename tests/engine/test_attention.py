"""Attention in groups is that of each row alone: ragged rows padded together, cached rows with gaps between."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from multigraft_adapters.bases import KVLayout
from multigraft_server.engine.attention import packed_attention
from multigraft_server.engine.attention_step import (
    AttentionStep,
    CachedRow,
    group_decodes,
    group_wholes,
    writes_of,
)
from multigraft_server.engine.kv import KVCache
from multigraft_server.engine.kv_table import KVRow

HEADS, KV_HEADS, HEAD_DIM, CAPACITY = 4, 2, 8, 128
TOLERANCE = 1e-5
CPU = torch.device("cpu")


def attend(step: AttentionStep, states: tuple[Tensor, Tensor, Tensor], window: int | None = None) -> Tensor:
    """(tokens, heads, head_dim), of states that are given in the same shape."""
    layer = nn.Module()
    layer.layer_idx = 0  # type: ignore[assignment]
    query, key, value = (part.transpose(0, 1)[None] for part in states)
    out, _ = packed_attention(
        layer, query, key, value, None, scaling=0.3, attention_step=step, sliding_window=window
    )
    return out[0]


def alone(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, window: int | None = None) -> Tensor:
    """The last tokens of one sequence over all of it: (tokens, heads, head_dim) each."""
    length, seen = len(query), len(key)
    away = torch.arange(seen - length, seen)[:, None] - torch.arange(seen)
    mask = away >= 0 if causal else torch.ones_like(away, dtype=torch.bool)
    mask = mask if window is None else mask & (away.abs() < window)
    query, key, value = (part.transpose(0, 1)[None] for part in (query, key, value))
    attended = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.3, enable_gqa=True)
    return attended[0].transpose(0, 1)


def random_states(tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(tokens)
    return (
        torch.randn(tokens, HEADS, HEAD_DIM),
        torch.randn(tokens, KV_HEADS, HEAD_DIM),
        torch.randn(tokens, KV_HEADS, HEAD_DIM),
    )


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    causal=st.booleans(),
    window=st.sampled_from([None, 1, 5, 64]),
)
def test_complete_rows_of_any_lengths(lengths: list[int], causal: bool, window: int | None) -> None:
    stops = torch.tensor(lengths).cumsum(0).tolist()
    rows = [(stop - length, stop) for stop, length in zip(stops, lengths, strict=True)]
    states = random_states(sum(lengths))
    step = AttentionStep(causal, whole=group_wholes(rows, CPU))
    found = attend(step, states, window)
    for start, stop in rows:
        own = (part[start:stop] for part in states)
        torch.testing.assert_close(
            found[start:stop], alone(*own, causal=causal, window=window), atol=TOLERANCE, rtol=TOLERANCE
        )


@settings(max_examples=40, deadline=None)
@given(
    places=st.lists(
        st.tuples(st.integers(0, 31), st.integers(1, 100)), min_size=1, max_size=12, unique_by=lambda p: p[0]
    ),
    window=st.sampled_from([None, 7]),
)
def test_rows_of_the_cache_wherever_they_lie(places: list[tuple[int, int]], window: int | None) -> None:
    torch.manual_seed(0)
    cache = KVCache(KVLayout(1, KV_HEADS, HEAD_DIM), 32 * CAPACITY, CPU, torch.float32)
    cache.ensure(0)
    keys, values = cache.view(0, CAPACITY, 0)
    keys.normal_()
    values.normal_()
    past = [(keys[row, :, :end].clone(), values[row, :, :end].clone()) for row, end in places]
    rows = [CachedRow(i, i + 1, end, KVRow(0, row, CAPACITY)) for i, (row, end) in enumerate(places)]
    states = random_states(len(rows))
    decodes, writes = group_decodes(rows, CPU), writes_of(rows, KV_HEADS, CPU)
    step = AttentionStep(True, decodes=decodes, writes=writes, kv=cache)
    found = attend(step, states, window)
    for i, (old_keys, old_values) in enumerate(past):
        query, key, value = (part[i : i + 1] for part in states)
        all_keys = torch.cat([old_keys.transpose(0, 1), key])
        all_values = torch.cat([old_values.transpose(0, 1), value])
        expected = alone(query, all_keys, all_values, causal=True, window=window)
        torch.testing.assert_close(found[i : i + 1], expected, atol=TOLERANCE, rtol=TOLERANCE)

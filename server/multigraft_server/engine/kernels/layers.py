"""The arguments of the kernel that computes all decoder layers of a step, as it reads them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import Structure, c_float, c_int64, c_void_p
from dataclasses import dataclass

import torch
from torch import Tensor


class LayoutStruct(Structure):
    """Query heads, KV heads, numbers of a head; bytes from the first layer's keys to its own keys and values."""

    _fields_ = [(name, c_int64) for name in ("heads", "kv_heads", "size", "keys", "values")]


class BankStruct(Structure):
    """Addresses of A and B of one module; 0 where it has none."""

    _fields_ = [("a", c_void_p), ("b", c_void_p)]


class LayerStruct(Structure):
    """One layer's weights and banks."""

    _fields_ = [
        *((name, c_void_p) for name in ("input_norm", "inner_norm", "qkv", "qkv_bias", "o", "o_bias")),
        *((name, c_void_p) for name in ("gate_up", "gate_up_bias", "down", "down_bias")),
        *((f"{name}_bank", BankStruct) for name in ("q", "k", "v", "o", "gate", "up", "down")),
        ("window", c_int64),
        ("layout", LayoutStruct),
    ]


class SizesStruct(Structure):
    """What all layers have in common."""

    _fields_ = [("hidden", c_int64), ("inner", c_int64), ("epsilon", c_float), ("scaling", c_float)]


class StepStruct(Structure):
    """One step's tokens, their groups of low-rank columns, and rooms to work in."""

    _fields_ = [
        *((name, c_int64) for name in ("tokens", "groups", "columns")),
        *(
            (name, c_void_p)
            for name in ("cosine", "sine", "cached", "group", "states", "x", "wide", "narrow", "low", "seconds")
        ),
    ]


SPENT = ("linear", "deltas", "attention", "model")
"""What the kernel's time is spent on, in the order of its counters; the last is all that lies between."""


@dataclass(frozen=True, slots=True)
class LayerSizes:
    """Features of the states, of the gated block inside, of the queries and of queries, keys and values."""

    hidden: int
    inner: int
    query: int
    qkv: int
    epsilon: float
    scaling: float


class LayersCall:
    """One step through `decoder_layers`; holds what the addresses point to while it runs."""

    def __init__(
        self,
        states: Tensor,
        rotary: tuple[Tensor, Tensor],
        cached: Tensor,
        groups: Tensor | None,
        columns: int,
        sizes: LayerSizes,
    ) -> None:
        tokens = states.shape[0]
        wide, narrow = max(sizes.qkv, 2 * sizes.inner), max(sizes.query, sizes.inner)
        rooms = [states.new_empty(tokens * width) for width in (sizes.hidden, wide, narrow)]
        rooms.append(torch.empty(tokens * 3 * columns))
        self._kept = (states, rotary, cached, groups, rooms)
        self.sizes = SizesStruct(sizes.hidden, sizes.inner, sizes.epsilon, sizes.scaling)
        self.step = StepStruct(
            *(tokens, 0 if groups is None else groups.shape[0], columns),
            *(part.data_ptr() for part in (*rotary, cached)),
            0 if groups is None else groups.data_ptr(),
            states.data_ptr(),
            *(room.data_ptr() for room in rooms),
        )


def layer_array(layers: Sequence[LayerStruct]) -> ctypes.Array[LayerStruct]:
    """The layers side by side."""
    return (LayerStruct * len(layers))(*layers)

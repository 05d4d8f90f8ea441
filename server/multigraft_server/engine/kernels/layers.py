"""The arguments of the kernel that computes all decoder layers of a step, as it reads them."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from ctypes import Structure, c_float, c_int64, c_void_p
from dataclasses import dataclass, field

import torch
from torch import Tensor

from multigraft_server.engine.kernels.many import ACTIVATIONS


class LayoutStruct(Structure):
    """Query heads, KV heads, numbers of a head; bytes from the first layer's keys to its own keys and values."""

    _fields_ = [(name, c_int64) for name in ("heads", "kv_heads", "size", "keys", "values")]


class ScalesStruct(Structure):
    """Addresses of one place's scales and shifts; 0 where it has none."""

    _fields_ = [("scale", c_void_p), ("shift", c_void_p)]


class ColumnsStruct(Structure):
    """Addresses of one place's columns: what is read by the first product, by the second, and added between."""

    _fields_ = [("first", c_void_p), ("second", c_void_p), ("bias", c_void_p)]


ByActivation = ColumnsStruct * len(ACTIVATIONS)


class ModuleStruct(Structure):
    """All banks of one linear module."""

    _fields_ = [
        ("inputs", ScalesStruct),
        ("outputs", ScalesStruct),
        ("low_rank", ColumnsStruct),
        ("after", ByActivation),
    ]


class LayerStruct(Structure):
    """One layer's weights and banks."""

    _fields_ = [
        *((name, c_void_p) for name in ("input_norm", "inner_norm", "qkv", "qkv_bias", "o", "o_bias")),
        *((name, c_void_p) for name in ("gate_up", "gate_up_bias", "down", "down_bias")),
        *((name, ModuleStruct) for name in ("at_q", "at_k", "at_v", "at_o", "at_gate", "at_up", "at_down")),
        ("parallel", ByActivation),
        ("window", c_int64),
        ("layout", LayoutStruct),
    ]


class SizesStruct(Structure):
    """What all layers have in common."""

    _fields_ = [("hidden", c_int64), ("inner", c_int64), ("epsilon", c_float), ("scaling", c_float)]


class TableStruct(Structure):
    """A step's groups of tokens at one kind of place: the address of their table, and how many they are."""

    _fields_ = [("groups", c_void_p), ("count", c_int64)]

    @classmethod
    def of(cls, table: Tensor | None) -> TableStruct:
        """`table` (groups, ...); None is no group at all."""
        return cls() if table is None else cls(table.data_ptr(), table.shape[0])


TablesByActivation = TableStruct * len(ACTIVATIONS)


class StepStruct(Structure):
    """One step's tokens, their groups by kind of place, and rooms to work in."""

    _fields_ = [
        *((name, c_int64) for name in ("tokens", "columns", "across")),
        *((name, c_void_p) for name in ("cosine", "sine", "cached")),
        *((name, TableStruct) for name in ("inputs", "outputs", "low_rank")),
        *((name, TablesByActivation) for name in ("after", "parallel")),
        *((name, c_void_p) for name in ("states", "x", "wide", "narrow", "low", "beside", "seconds")),
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


@dataclass(frozen=True, slots=True)
class LayerTables:
    """A step's groups, as the kernels read them, by kind of place and those of bottlenecks by activation.

    `columns`: the most that a group has at a linear module; `across`: beside a feed-forward block."""

    inputs: Tensor | None = None
    outputs: Tensor | None = None
    low_rank: Tensor | None = None
    after: Mapping[str, Tensor] = field(default_factory=dict)
    parallel: Mapping[str, Tensor] = field(default_factory=dict)
    columns: int = 0
    across: int = 0


class LayersCall:
    """One step through `decoder_layers`; holds what the addresses point to while it runs."""

    def __init__(
        self,
        states: Tensor,
        rotary: tuple[Tensor, Tensor],
        cached: Tensor,
        tables: LayerTables,
        sizes: LayerSizes,
    ) -> None:
        tokens = states.shape[0]
        wide, narrow = max(sizes.qkv, 2 * sizes.inner), max(sizes.query, sizes.inner)
        rooms = [states.new_empty(tokens * width) for width in (sizes.hidden, wide, narrow)]
        columns, across = (_whole_vectors(count) for count in (tables.columns, tables.across))
        rooms += [torch.empty(tokens * 3 * columns), torch.empty(tokens * across)]
        self._kept = (states, rotary, cached, tables, rooms)
        self.sizes = SizesStruct(sizes.hidden, sizes.inner, sizes.epsilon, sizes.scaling)
        self.step = StepStruct(
            *(tokens, columns, across),
            *(part.data_ptr() for part in (*rotary, cached)),
            *(TableStruct.of(table) for table in (tables.inputs, tables.outputs, tables.low_rank)),
            *(_by_activation(groups) for groups in (tables.after, tables.parallel)),
            states.data_ptr(),
            *(room.data_ptr() for room in rooms),
        )


def layer_array(layers: Sequence[LayerStruct]) -> ctypes.Array[LayerStruct]:
    """The layers side by side."""
    return (LayerStruct * len(layers))(*layers)


def _by_activation(groups: Mapping[str, Tensor]) -> ctypes.Array[TableStruct]:
    return TablesByActivation(*(TableStruct.of(groups.get(name)) for name in ACTIVATIONS))


def _whole_vectors(columns: int) -> int:
    return (columns + 15) // 16 * 16

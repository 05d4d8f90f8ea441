"""What adapters do inside a decoder's layers, as the kernel of all layers reads it, and what it cannot do."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence

from torch import Tensor

from multigraft_server.engine.banks.bottlenecks import BottleneckPlace, BottleneckStep
from multigraft_server.engine.banks.low_rank import LowRankBank
from multigraft_server.engine.banks.scales import ScaleBank, ScaleStep
from multigraft_server.engine.banks.step import DeltaStep
from multigraft_server.engine.kernels.layers import (
    ByActivation,
    ColumnsStruct,
    LayerTables,
    ModuleStruct,
    ScalesStruct,
)
from multigraft_server.engine.kernels.many import ACTIVATIONS
from multigraft_server.engine.layers import DeltaLinear


def module_struct(linear: DeltaLinear) -> ModuleStruct:
    """Where all banks of a linear module lie now."""
    return ModuleStruct(
        _scales(linear.inputs.bank),
        _scales(linear.outputs.bank),
        _low_rank(linear.low_rank),
        columns_at(linear.after),
    )


def columns_at(place: BottleneckPlace) -> ctypes.Array[ColumnsStruct]:
    """Where the bottlenecks of a place lie now, by activation."""
    banks = (place.banks.get(activation) for activation in ACTIVATIONS)
    return ByActivation(
        *(
            ColumnsStruct() if bank is None else ColumnsStruct(*_addresses(bank.down, bank.up, bank.bias))
            for bank in banks
        )
    )


def layer_tables(delta: DeltaStep | None) -> LayerTables:
    """A step's groups at the modules of layers."""
    if delta is None:
        return LayerTables()
    low_rank, after, parallel = delta.low_rank, delta.after, delta.parallel
    at_modules = [*([] if low_rank is None else [low_rank]), *(step.columns for step in after)]
    return LayerTables(
        None if delta.inputs is None else delta.inputs.table,
        None if delta.outputs is None else delta.outputs.table,
        None if low_rank is None else low_rank.table,
        _by_activation(after),
        _by_activation(parallel),
        columns=max((step.widest for step in at_modules), default=0),
        across=max((step.columns.widest for step in parallel), default=0),
    )


def any_scaled(banks: Iterable[ScaleBank], step: ScaleStep | None) -> bool:
    """Whether a group of the step has a map in one of these banks."""
    return step is not None and any(group.row in bank.rows for bank in banks for group in step.groups)


def _by_activation(steps: Sequence[BottleneckStep]) -> dict[str, Tensor]:
    return {step.activation: step.columns.table for step in steps if step.columns.table is not None}


def _scales(bank: ScaleBank | None) -> ScalesStruct:
    if bank is None:
        return ScalesStruct()
    return ScalesStruct(bank.scale.data_ptr(), None if bank.shift is None else bank.shift.data_ptr())


def _low_rank(bank: LowRankBank | None) -> ColumnsStruct:
    return ColumnsStruct() if bank is None else ColumnsStruct(*_addresses(bank.a, bank.b))


def _addresses(*tensors: Tensor) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]

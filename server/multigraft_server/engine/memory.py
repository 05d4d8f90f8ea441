"""What the base's weights take of the memory."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from multigraft_server.engine.packing import PackedLinear
from multigraft_server.engine.shared import SharedLinear, SharedProduct


def weight_bytes(parts: Iterable[nn.Module]) -> int:
    """Bytes of all weights in these modules, each counted once: parameters, buffers, packed weights."""
    modules = {id(module): module for part in parts for module in part.modules()}.values()
    tensors = {
        tensor.data_ptr(): tensor.nbytes
        for module in modules
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))
    }
    packed: set[PackedLinear | SharedProduct] = {
        module.product if isinstance(module, SharedLinear) else module
        for module in modules
        if isinstance(module, SharedLinear | PackedLinear)
    }
    return sum(tensors.values()) + sum(one.num_bytes for one in packed)

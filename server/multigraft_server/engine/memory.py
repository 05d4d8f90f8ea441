"""What the base's weights take of the memory, and that it is theirs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from multigraft_server.engine.packing import PackedLinear
from multigraft_server.engine.quantising import QuantisedLinear
from multigraft_server.engine.shared import SharedLinear, SharedProduct


def leave_file(parts: Sequence[nn.Module]) -> None:
    """Copy what was not packed out of the file that the weights were read from.

    The file is mapped into memory whole while one tensor is left in it, the weights that were packed included.
    Where nothing was packed, the file is all that there is of the weights, and stays.
    """
    modules = [module for part in parts for module in part.modules()]
    if not any(isinstance(module, SharedLinear | PackedLinear | QuantisedLinear) for module in modules):
        return
    for parameter in {id(one): one for part in parts for one in part.parameters()}.values():
        parameter.data = parameter.data.clone()


def weight_bytes(parts: Iterable[nn.Module]) -> int:
    """Bytes of all weights in these modules, each counted once: parameters, buffers, packed weights."""
    modules = {id(module): module for part in parts for module in part.modules()}.values()
    tensors = {
        tensor.data_ptr(): tensor.nbytes
        for module in modules
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))
    }
    packed: set[PackedLinear | SharedProduct | QuantisedLinear] = {
        module.product if isinstance(module, SharedLinear) else module
        for module in modules
        if isinstance(module, SharedLinear | PackedLinear | QuantisedLinear)
    }
    return sum(tensors.values()) + sum(one.num_bytes for one in packed)

"""The second copy of the base's weights, in which one adapter is merged; the originals are never written."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from multigraft_adapters.errors import IntegrityError, MergeRefusedError
from multigraft_adapters.methods import Ia3Delta, LoraDelta
from multigraft_adapters.methods.merging import (
    MergeableDelta,
    changes_weight,
    merged_bias,
    merged_paths,
    merged_weight,
)
from multigraft_adapters.verify import VerifiedAdapter
from multigraft_server.engine.layers import DeltaLinear, DeltaNorm, WrappedBase
from multigraft_server.engine.packing import PackedLinear
from multigraft_server.engine.quantising import QuantisedLinear
from multigraft_server.engine.shared import SharedLinear, SharedProduct

PIECE_NUMBERS = 1024 * 1024
"""Numbers of a weight that are merged at once, in fp32."""

Place = DeltaLinear | DeltaNorm


@dataclass(frozen=True, slots=True, eq=False)
class MergedWeights:
    """The base's weights with one adapter merged: by place, each module that is another than the base's own."""

    digest: str
    modules: Mapping[nn.Module, nn.Module]
    sums: Mapping[nn.Module, int]
    """Checksums of what of them was made anew."""


class SecondCopy:
    """Makes merged weights, one adapter's at a time, in memory that is taken at the first merge and used again.

    What `build` gave before must not be used any more when it is called again. It only reads the base's modules.
    """

    def __init__(self, wrapped: WrappedBase, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.num_bytes = 0
        """Of the copy, in use or kept for the next."""
        self._places: dict[str, Place] = {**wrapped.linears, **wrapped.norms}
        if wrapped.head is not None:
            self._places["lm_head"] = wrapped.head
        self._old: dict[nn.Module, nn.Module] = {}  # by original: modules whose memory is used again
        self._sums: dict[nn.Module, int] = {}  # of the originals that have been read
        self._turn = 0

    def refuse_unless_mergeable(self, adapter: VerifiedAdapter) -> MergeableDelta:
        """The adapter's delta; raises MergeRefusedError, with the reason, when merging it would not be exact or
        would take more memory than the budget."""
        delta = adapter.delta
        if not isinstance(delta, LoraDelta | Ia3Delta):
            method = type(delta).__name__.removesuffix("Delta").lower()
            raise MergeRefusedError(f"the method {method} is no change of the base's weights: it cannot be merged")
        originals = {self._whole(path) for path in merged_paths(delta)}
        if any(isinstance(module, QuantisedLinear) for module in originals):
            raise MergeRefusedError("the base's weights have 8 bits: merging would round them again")
        if not originals:
            raise MergeRefusedError("the adapter changes embeddings only, which are looked up: nothing to merge")
        needed = sum(_bytes(module) for module in originals | self._old.keys())
        if needed > self.budget_bytes:
            raise MergeRefusedError(f"merging needs {needed} bytes, merge_bytes is {self.budget_bytes}")
        return delta

    def build(self, adapter: VerifiedAdapter) -> Generator[None, None, MergedWeights]:
        """Make the merged weights, piece by piece. Raises as `refuse_unless_mergeable`."""
        delta = self.refuse_unless_mergeable(adapter)
        modules: dict[nn.Module, nn.Module] = {}
        sums: dict[nn.Module, int] = {}
        for original, paths in self._by_original(delta).items():
            weight, bias = _dense(original), _bias(original)
            self._sums.setdefault(original, _checksum(weight, bias))
            yield
            new_bias = yield from self._merge(delta, paths, weight, bias)
            twin = _twin(original, weight, new_bias, self._old.get(original))
            self.num_bytes += _bytes(twin) - (_bytes(self._old[original]) if original in self._old else 0)
            self._old[original], sums[twin] = twin, _checksum(weight, new_bias)
            modules |= self._standing(paths[0], twin)
            yield
        return MergedWeights(adapter.digest, modules, sums)

    def check_integrity(self, merged: MergedWeights | None) -> None:
        """Raise IntegrityError when a sampled module, each the next one, is not what it was when it was read or
        merged."""
        self._turn += 1
        if not _sample_holds(self._sums, self._turn):
            raise IntegrityError("a weight of the base is not what it was when it was first merged")
        if merged is not None and not _sample_holds(merged.sums, self._turn):
            raise IntegrityError(f"a merged weight is not what adapter {merged.digest} made of it")

    def _whole(self, path: str) -> nn.Module:
        """What is packed as one: a shared product's linear module, or the module itself."""
        base = self._places[path].base
        return base.product.linear if isinstance(base, SharedLinear) else base

    def _by_original(self, delta: MergeableDelta) -> dict[nn.Module, list[str]]:
        grouped: dict[nn.Module, list[str]] = {}
        for path in merged_paths(delta):
            grouped.setdefault(self._whole(path), []).append(path)
        return grouped

    def _merge(
        self, delta: MergeableDelta, paths: list[str], weight: Tensor, bias: Tensor | None
    ) -> Generator[None, None, Tensor | None]:
        """Merge what paths change of one original's weight, in its place; gives its bias."""
        wide = None if bias is None else bias.float().clone()
        for path in paths:
            rows = self._rows(path, len(weight))
            if changes_weight(delta, path):
                yield from _merge_rows(delta, path, weight[rows])
            own = merged_bias(delta, path, None if bias is None else bias[rows].float())
            if own is not None:
                wide = own.new_zeros(len(weight)) if wide is None else wide
                wide[rows] = own
        return None if wide is None else wide.to(weight.dtype)

    def _rows(self, path: str, rows: int) -> slice:
        """Of an original with so many rows, those that are the module's at a path."""
        base = self._places[path].base
        if not isinstance(base, SharedLinear):
            return slice(rows)
        first = sum(base.product.sizes[: base.member])
        return slice(first, first + base.product.sizes[base.member])

    def _standing(self, path: str, twin: nn.Module) -> dict[nn.Module, nn.Module]:
        """The modules that stand in for the base's own at all places that the original at a path serves."""
        base = self._places[path].base
        if not isinstance(base, SharedLinear):
            return {self._places[path]: twin}
        assert isinstance(twin, PackedLinear)  # as the original is
        product = SharedProduct(twin, base.product.sizes)
        members = {
            place: place.base.member
            for place in self._places.values()
            if isinstance(place.base, SharedLinear) and place.base.product is base.product
        }
        return {place: SharedLinear(product, member) for place, member in members.items()}


def _merge_rows(delta: MergeableDelta, path: str, weight: Tensor) -> Iterator[None]:
    """Merge a weight (out, in) in its place, rounded once."""
    rows = max(1, PIECE_NUMBERS // weight.shape[1])
    for first in range(0, len(weight), rows):
        piece = weight[first : first + rows]
        piece.copy_(merged_weight(delta, path, piece.float(), first))
        yield


def _twin(original: nn.Module, weight: Tensor, bias: Tensor | None, old: nn.Module | None) -> nn.Module:
    """A module like the original with another weight (out, in) and bias; `old` is the last such one."""
    if isinstance(original, PackedLinear):
        return original.twin(weight, bias, old if isinstance(old, PackedLinear) else None)
    twin = copy.copy(original)
    weight = weight.t().contiguous() if isinstance(original, Conv1D) else weight
    own = {"weight": weight, "bias": bias}
    twin._parameters = {
        name: None if tensor is None else nn.Parameter(tensor, requires_grad=False) for name, tensor in own.items()
    }
    return twin


def _dense(module: nn.Module) -> Tensor:
    """A copy of a module's weight, (out, in) or (n,)."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    weight = weight.t() if isinstance(module, Conv1D) else weight
    return weight.detach().clone(memory_format=torch.contiguous_format)


def _bias(module: nn.Module) -> Tensor | None:
    bias: Tensor | None = getattr(module, "bias", None)
    return bias


def _sample_holds(sums: Mapping[nn.Module, int], turn: int) -> bool:
    """Whether one of the modules, the next one each turn, still has its checksum."""
    if not sums:
        return True
    module = list(sums)[turn % len(sums)]
    return _checksum(_dense(module), _bias(module)) == sums[module]


def _checksum(weight: Tensor, bias: Tensor | None) -> int:
    """Of a weight's bytes, which lie side by side, and a bias'."""
    parts = [weight] if bias is None else [weight, bias]
    total = 0
    for part in parts:
        total = zlib.crc32(part.detach().cpu().contiguous().view(torch.uint8).numpy().data, total)
    return total


def _bytes(module: nn.Module) -> int:
    bias = _bias(module)
    if isinstance(module, PackedLinear):
        own = module.num_bytes
    else:
        weight: Tensor = module.weight  # type: ignore[assignment]
        own = weight.nbytes
    return own + (0 if bias is None else bias.nbytes)

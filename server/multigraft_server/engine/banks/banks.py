"""All that is resident on the device, by kind of operation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from multigraft_adapters.bases.spec import OUTPUT_HEAD
from multigraft_server.engine.banks.bottlenecks import BottleneckBanks
from multigraft_server.engine.banks.embeddings import EmbeddingBanks
from multigraft_server.engine.banks.low_rank import USUAL_RANK, LowRankBanks
from multigraft_server.engine.banks.prefixes import PrefixBank
from multigraft_server.engine.banks.prompts import PromptBank
from multigraft_server.engine.banks.scales import ScaleBanks
from multigraft_server.engine.banks.step import DeltaStep
from multigraft_server.engine.kernels import Kernels
from multigraft_server.engine.layers import WrappedBase
from multigraft_server.engine.methods.prepared import PreparedDelta
from multigraft_server.engine.plan import Group


class BankKind(Protocol):
    """The banks of one operation, at all of its places."""

    @property
    def num_bytes(self) -> int: ...

    def write(self, slot: int, delta: PreparedDelta) -> None: ...

    def clear(self, slot: int) -> None: ...

    def check_integrity(self) -> None: ...


class Banks:
    """All banks of one engine. A slot is cleared before it is written."""

    def __init__(
        self,
        wrapped: WrappedBase,
        hidden_size: int,
        num_slots: int,
        device: torch.device,
        dtype: torch.dtype,
        kernels: Kernels | None = None,
    ) -> None:
        linears, norms = wrapped.linears, wrapped.norms
        head = {} if wrapped.head is None else {OUTPUT_HEAD: wrapped.head}
        self._low_rank = LowRankBanks(linears, num_slots * USUAL_RANK, device, dtype, kernels)
        self._head_low_rank = LowRankBanks(head, 0, device, dtype, kernels)
        self._head_outputs = ScaleBanks(
            lambda delta: delta.outputs, {path: linear.outputs for path, linear in head.items()}, device, kernels
        )
        self._inputs = ScaleBanks(
            lambda delta: delta.inputs, {path: linear.inputs for path, linear in linears.items()}, device, kernels
        )
        self._outputs = ScaleBanks(
            lambda delta: delta.outputs,
            {path: linear.outputs for path, linear in linears.items()}
            | {path: norm.outputs for path, norm in norms.items()},
            device,
            kernels,
        )
        self._after = BottleneckBanks(
            lambda delta: delta.after,
            {path: linear.after for path, linear in linears.items()},
            device,
            dtype,
            kernels,
        )
        self._parallel = BottleneckBanks(
            lambda delta: delta.parallel,
            {path: linear.parallel for path, linear in linears.items() if linear.ends},
            device,
            dtype,
            kernels,
        )
        self._around = BottleneckBanks(
            lambda delta: delta.around, {path: norm.around for path, norm in norms.items()}, device, dtype, kernels
        )
        self._embeddings = EmbeddingBanks(wrapped.embeddings, device)
        self.prompts = PromptBank(hidden_size, device, dtype)
        self.prefixes = PrefixBank(device)
        self._kinds: tuple[BankKind, ...] = (
            self._low_rank,
            self._head_low_rank,
            self._head_outputs,
            self._inputs,
            self._outputs,
            self._after,
            self._parallel,
            self._around,
            self._embeddings,
            self.prompts,
            self.prefixes,
        )

    @property
    def num_bytes(self) -> int:
        return sum(kind.num_bytes for kind in self._kinds)

    def write(self, slot: int, delta: PreparedDelta) -> None:
        """Put a delta into a slot."""
        for kind in self._kinds:
            kind.write(slot, delta)

    def clear(self, slot: int) -> None:
        """Forget what a slot contains."""
        for kind in self._kinds:
            kind.clear(slot)

    def plan(self, groups: Sequence[Group], *, is_merged: bool = False) -> DeltaStep | None:
        """How the wrapped modules compute these groups; None when they are the base's alone. What is merged into
        the weights is not done again: of an adapter that is, only its tables at embeddings are left."""
        if is_merged:
            tables = self._embeddings.plan(groups)
            return DeltaStep(embeddings=tables, generation=self._generation) if tables else None
        step = DeltaStep(
            low_rank=self._low_rank.plan(groups),
            inputs=self._inputs.plan(groups),
            outputs=self._outputs.plan(groups),
            after=self._after.plan(groups),
            parallel=self._parallel.plan(groups),
            around=self._around.plan(groups),
            embeddings=self._embeddings.plan(groups),
            generation=self._generation,
        )
        return step if step else None

    def plan_head(self, groups: Sequence[Group]) -> DeltaStep | None:
        """How the output head computes these groups of rows; None when they are the base's alone."""
        step = DeltaStep(low_rank=self._head_low_rank.plan(groups), outputs=self._head_outputs.plan(groups))
        return step if step else None

    @property
    def _generation(self) -> int:
        at_layers = (self._low_rank, self._inputs, self._outputs, self._after, self._parallel, self._around)
        return sum(kind.generation for kind in at_layers)

    def check_integrity(self) -> None:
        """Raise IntegrityError when what two slots have overlaps."""
        for kind in self._kinds:
            kind.check_integrity()

"""A step's forward pass: a plan becomes packed tensors, the backbone runs, hidden states come back."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import Tensor, nn

from multigraft_adapters.bases import Base
from multigraft_server.engine.attention import ATTENTION_NAME
from multigraft_server.engine.attention_step import (
    AttentionStep,
    CachedRow,
    LazyWholes,
    PrefixedRow,
    group_decodes,
    writes_of,
)
from multigraft_server.engine.banks.banks import Banks
from multigraft_server.engine.banks.step import DeltaStep
from multigraft_server.engine.context import StepContext
from multigraft_server.engine.fused import fuse_blocks
from multigraft_server.engine.fused_encoder import fuse_encoder
from multigraft_server.engine.fused_layers import fuse_layers
from multigraft_server.engine.fused_step import FusedSteps
from multigraft_server.engine.inputs import InputPacker, PackedImages
from multigraft_server.engine.kernels import KernelMode, load_kernels, why_unused
from multigraft_server.engine.kv import KVCache
from multigraft_server.engine.layers import hook_embedding, wrap_base
from multigraft_server.engine.memory import leave_file, weight_bytes
from multigraft_server.engine.methods.frozen import FrozenModules
from multigraft_server.engine.plan import Group, PlannedRow
from multigraft_server.engine.pooling import slot_groups
from multigraft_server.engine.second_copy import MergedWeights
from multigraft_server.engine.sequences import Past, plan_sequences


class Runner:
    """Owns the wrapped backbone. The base's modules are replaced once, here; nothing else touches them."""

    def __init__(self, base: Base, kv: KVCache | None, num_slots: int, kernel_mode: KernelMode = "auto") -> None:
        self.context = StepContext()
        self.device: torch.device = base.model.device
        kernels = load_kernels(kernel_mode, self.device, base.model.dtype)
        self.kernels = "compiled" if kernels else why_unused(kernel_mode, self.device, base.model.dtype)
        self._kernels = kernels
        self._fused: FusedSteps | None = None
        if kernels is not None and fuse_blocks(base.model, kernels) and kv is not None:
            self._fused = FusedSteps(base.model.config.num_attention_heads, kv)
        if kernels is not None and base.spec.family != "decoder":
            fuse_encoder(base.model, kernels.many)
        wrapped = wrap_base(base, self.context, kernels)
        parts = [part for part in (base.model, wrapped.head) if part is not None]
        leave_file(parts)  # before anything takes the addresses of weights
        self.weight_bytes = weight_bytes(parts)
        if self._fused is not None and kernels is not None:
            fuse_layers(base.model, self.context, kernels, self._fused.layouts)
        self.banks = Banks(wrapped, base.spec.hidden_size, num_slots, self.device, base.model.dtype, kernels)
        self.frozen = FrozenModules(wrapped.bases, base.model.dtype)
        self.wrapped = wrapped
        self._base = base
        self._head = wrapped.head
        self._inputs = InputPacker(base)
        if base.spec.image is not None:
            base.model.embeddings = PackedImages(base.model.embeddings)
        else:
            hook_embedding(base.model.get_input_embeddings(), self.context)
        self._logit_cap: float | None = getattr(base.model.config, "final_logit_softcapping", None)
        self._kv = kv
        self._pooler = _detach_pooler(base.model)
        base.model.set_attn_implementation(ATTENTION_NAME)

    @property
    def kv_bytes(self) -> int:
        """Bytes of the KV cache that are taken so far."""
        return 0 if self._kv is None else self._kv.num_bytes

    @property
    def takes_images(self) -> bool:
        """Whether its inputs are pixels."""
        return self._base.spec.image is not None

    @property
    def max_length(self) -> int:
        """Tokens that a row may have, virtual ones included."""
        return self._base.spec.max_length

    def run(self, rows: Sequence[PlannedRow], merged: MergedWeights | None = None) -> Tensor:
        """The hidden states of the rows' tokens, (tokens, hidden), in their order; on merged weights, if they are
        given, which are then those of all rows' adapter."""
        steps = self._attention(rows)
        groups = slot_groups([part.row.slot for part in rows], [part.count for part in rows])
        with self._step(self.banks.plan(groups, is_merged=merged is not None), merged, rows):
            output = self._base.model(**self._inputs.pack(rows), use_cache=False, **steps)
        hidden: Tensor = output.last_hidden_state[0]
        return hidden

    def logits(self, states: Tensor, groups: Sequence[Group], merged: MergedWeights | None = None) -> Tensor:
        """The base's own output head with each row's delta on it, or merged into it: (rows, hidden) -> (rows,
        vocabulary).

        Bounded where the base bounds it.
        """
        assert self._head is not None  # the router refuses generation on encoders
        with self._step(None if merged is not None else self.banks.plan_head(groups), merged):
            logits: Tensor = self._head(states)
        cap = self._logit_cap
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def base_pooler(self, first: Tensor, groups: Sequence[Group], merged: MergedWeights | None = None) -> Tensor:
        """The base's own pooler over first states (rows, hidden), with each row's delta on it, or in it."""
        assert self._pooler is not None  # verification refuses such heads on bases without a pooler
        with self._step(self.banks.plan(groups, is_merged=merged is not None), merged):
            pooled: Tensor = self._pooler(first[:, None])
        return pooled

    def _step(
        self, delta: DeltaStep | None, merged: MergedWeights | None, rows: Sequence[PlannedRow] = ()
    ) -> AbstractContextManager[None]:
        return self.context.step(delta, self.banks.prompts.plan(rows), None if merged is None else merged.modules)

    def _attention(self, rows: Sequence[PlannedRow]) -> dict[str, object]:
        """What the attention modules take beside the states."""
        whole: list[tuple[int, int]] = []
        prefixed: list[PrefixedRow] = []
        cached: list[CachedRow] = []
        place = 0
        for part in rows:
            stop, kv = place + part.count, part.row.kv
            prefix = self.banks.prefixes.get(part.row.slot) if part.row.request.virtual.cached else None
            if kv is not None and self._kv is not None:
                self._kv.ensure(kv.slab)
                if prefix is not None and part.start == part.row.num_virtual:
                    self._kv.write(kv, prefix)
            if kv is None and prefix is not None:
                prefixed.append(PrefixedRow(place, stop, prefix))
            elif part.start == 0:
                whole.append((place, stop))
            if kv is not None:
                cached.append(CachedRow(place, stop, part.start, kv))
            place = stop
        chunks = [row for row in cached if row.past > 0 and row.stop - row.start > 1]
        step = AttentionStep(
            causal=self._base.spec.family == "decoder",
            prefixed=prefixed,
            whole=LazyWholes(whole, self.device),
            chunks=chunks,
            kv=self._kv,
            sequences=plan_sequences(self._pasts(whole, prefixed, chunks), self._kernels),
        )
        if self._fused is not None:
            return {"attention_step": step, "fused_step": self._fused.make(place, cached)}
        return {"attention_step": self._with_single_tokens(step, cached)}

    def _pasts(
        self, whole: Sequence[tuple[int, int]], prefixed: Sequence[PrefixedRow], chunks: Sequence[CachedRow]
    ) -> list[tuple[int, int, Past]]:
        rows = [(start, stop, Past()) for start, stop in whole]
        rows += [(row.start, row.stop, Past.of_prefix(row.prefix)) for row in prefixed]
        if self._kv is not None:
            rows += [(row.start, row.stop, Past.of_cache(self._kv, row.kv, row.past)) for row in chunks]
        return rows

    def _with_single_tokens(self, step: AttentionStep, cached: Sequence[CachedRow]) -> AttentionStep:
        layout, singles = self._base.spec.kv, [row for row in cached if row.past > 0 and row.stop - row.start == 1]
        return replace(
            step,
            decodes=group_decodes(singles, self.device),
            writes=writes_of(cached, 0 if layout is None else layout.heads, self.device),
        )


def _detach_pooler(backbone: nn.Module) -> nn.Module | None:
    """Take an encoder's pooler out of its forward: packed, its first position would be the first row's only."""
    pooler: nn.Module | None = getattr(backbone, "pooler", None)
    if pooler is not None:
        backbone.pooler = None  # type: ignore[assignment]
    return pooler

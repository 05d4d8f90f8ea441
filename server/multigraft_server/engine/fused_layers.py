"""All layers of a decoder as one module, computed by one kernel in the steps that it can compute."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from multigraft_server.engine.attention_step import AttentionStep
from multigraft_server.engine.banks.scales import ScaleBank
from multigraft_server.engine.banks.step import DeltaStep
from multigraft_server.engine.context import StepContext
from multigraft_server.engine.fused import FusedAttention, FusedGate, FusedNorm
from multigraft_server.engine.fused_deltas import any_scaled, columns_at, layer_tables, module_struct
from multigraft_server.engine.fused_step import FusedStep
from multigraft_server.engine.kernels import Kernels
from multigraft_server.engine.kernels.layers import (
    LayersCall,
    LayerSizes,
    LayerStruct,
    LayoutStruct,
    layer_array,
)
from multigraft_server.engine.layers import DeltaLinear
from multigraft_server.engine.packing import TiledLinear
from multigraft_server.engine.shared import SharedLinear

T = TypeVar("T")

MODULES = ("q", "k", "v", "o", "gate", "up", "down")
SHARED_INPUT = ("q", "k", "v", "gate", "up")
"""Those that are members of a shared product: the kernel does not scale the input of one of them."""


class FusedLayers(nn.Module):
    """Stands for a decoder's list of layers. A step in which every token is cached and no prompt is long is one
    call of the kernel, if no adapter in it scales the input of a member of a shared product; any other goes
    through the layers one by one."""

    def __init__(
        self, layers: Sequence[nn.Module], context: StepContext, kernels: Kernels, layouts: Sequence[Tensor]
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self._context = context
        self._kernels = kernels
        self._parts = [_Parts(layer) for layer in layers]
        self._layouts = [LayoutStruct(*layout.tolist()) for layout in layouts]
        self._sizes = self._parts[0].sizes()
        self._generation = 0
        self._read_addresses()
        self._merged_structs = self._structs
        self._merged_weights: Mapping[nn.Module, nn.Module] | None = None

    def forward(
        self,
        hidden_states: Tensor,
        *,
        position_embeddings: tuple[Tensor, Tensor],
        attention_step: AttentionStep,
        fused_step: FusedStep,
        **options: Any,
    ) -> Tensor:
        """(1, tokens, n) -> (1, tokens, n)."""
        delta = self._context.delta
        if fused_step.at_once and self._takes(delta):
            return self._at_once(hidden_states, position_embeddings, fused_step, delta)
        options |= {"attention_step": attention_step, "fused_step": fused_step}
        for layer in self.layers:
            hidden_states = layer(hidden_states, position_embeddings=position_embeddings, **options)
        return hidden_states

    def _takes(self, delta: DeltaStep | None) -> bool:
        """Whether the kernel can do all that a step's adapters do."""
        if delta is None:
            return True
        if delta.generation != self._generation:
            self._generation = delta.generation
            self._read_addresses()
        return not delta.around and not any_scaled(self._shared_inputs, delta.inputs)

    def _at_once(
        self, states: Tensor, rotary: tuple[Tensor, Tensor], fused: FusedStep, delta: DeltaStep | None
    ) -> Tensor:
        states = states.clone(memory_format=torch.contiguous_format)
        turned = (rotary[0][0].contiguous(), rotary[1][0].contiguous())
        merged = self._context.merged
        structs = self._structs if merged is None else self._merged(merged)
        call = LayersCall(states[0], turned, fused.cached, layer_tables(delta), self._sizes)
        self._kernels.decoder_layers(structs, call)
        return states

    def _read_addresses(self) -> None:
        """Find out where weights and banks lie in memory."""
        self._structs = layer_array([self._struct(index, {}) for index in range(len(self._parts))])
        self._shared_inputs = [bank for parts in self._parts for bank in parts.shared_inputs()]

    def _merged(self, merged: Mapping[nn.Module, nn.Module]) -> ctypes.Array[LayerStruct]:
        """Of merged weights, beside which no bank is read."""
        if merged is not self._merged_weights:
            self._merged_structs = layer_array([self._struct(i, merged) for i in range(len(self._parts))])
            self._merged_weights = merged
        return self._merged_structs

    def _struct(self, index: int, merged: Mapping[nn.Module, nn.Module]) -> LayerStruct:
        parts = self._parts[index]
        return LayerStruct(
            parts.input_norm.address,
            parts.inner_norm.address,
            *(address for linear in parts.products(merged) for address in linear.addresses()),
            *(module_struct(parts.linears[name]) for name in MODULES),
            columns_at(parts.linears["down"].parallel),
            parts.attention.window or 0,
            self._layouts[index],
        )


class _Parts:
    """One decoder layer's modules as the kernel wants them; raises TypeError where they are not such."""

    def __init__(self, layer: nn.Module) -> None:
        attention, block = layer.self_attn, layer.mlp
        self.input_norm = _a(FusedNorm, layer.input_layernorm)
        self.inner_norm = _a(FusedNorm, layer.post_attention_layernorm)
        self.attention, self.block = _a(FusedAttention, attention), _a(FusedGate, block)
        parents = {name: self.block if name in ("gate", "up", "down") else self.attention for name in MODULES}
        self.linears = {name: _a(DeltaLinear, getattr(parents[name], f"{name}_proj")) for name in MODULES}
        self.products({})

    def products(self, merged: Mapping[nn.Module, nn.Module]) -> list[TiledLinear]:
        """Of queries, keys and values; of the output; of gate and up; of down."""
        places = [self.linears[name] for name in ("q", "o", "gate", "down")]
        qkv, o, gate_up, down = (merged.get(place, place.base) for place in places)
        shared = [_a(SharedLinear, linear).product.linear for linear in (qkv, gate_up)]
        return [_a(TiledLinear, linear) for linear in (shared[0], o, shared[1], down)]

    def sizes(self) -> LayerSizes:
        qkv, o, gate_up, _ = (linear.shape for linear in self.products({}))
        return LayerSizes(
            hidden=qkv[1],
            inner=gate_up[0] // 2,
            query=o[1],
            qkv=qkv[0],
            epsilon=self.input_norm.epsilon,
            scaling=self.attention.scaling,
        )

    def shared_inputs(self) -> list[ScaleBank]:
        """The scales of inputs that several modules read."""
        banks = (self.linears[name].inputs.bank for name in SHARED_INPUT)
        return [bank for bank in banks if bank is not None]


def fuse_layers(backbone: nn.Module, context: StepContext, kernels: Kernels, layouts: Sequence[Tensor]) -> bool:
    """Let one module stand for all layers of a backbone, all fused; returns whether that could be done."""
    try:
        fused = FusedLayers(list(backbone.layers), context, kernels, layouts)  # type: ignore[arg-type]
    except (TypeError, AttributeError):
        return False
    backbone.layers = nn.ModuleList([fused])
    return True


def _a(kind: type[T], module: object) -> T:
    if not isinstance(module, kind):
        raise TypeError(f"{type(module).__name__} is no {kind.__name__}")
    return module

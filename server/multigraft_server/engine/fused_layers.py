"""All layers of a decoder as one module, computed by one kernel in the steps that it can compute."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from multigraft_server.engine.attention_step import AttentionStep
from multigraft_server.engine.banks.low_rank import ColumnStep
from multigraft_server.engine.context import StepContext
from multigraft_server.engine.fused import FusedAttention, FusedGate, FusedNorm
from multigraft_server.engine.fused_step import FusedStep
from multigraft_server.engine.kernels import Kernels
from multigraft_server.engine.kernels.layers import (
    BankStruct,
    LayersCall,
    LayerSizes,
    LayerStruct,
    LayoutStruct,
    layer_array,
)
from multigraft_server.engine.layers import DeltaLinear, DeltaNorm
from multigraft_server.engine.packing import TiledLinear
from multigraft_server.engine.shared import SharedLinear

T = TypeVar("T")

MODULES = ("q", "k", "v", "o", "gate", "up", "down")


class FusedLayers(nn.Module):
    """Stands for a decoder's list of layers. A step in which every token is cached, no prompt is long and every
    delta is a low-rank product is one call of the kernel; any other goes through the layers one by one."""

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
        self._structs = layer_array([self._struct(index, filled=False) for index in range(len(layers))])
        self._filled_structs = self._structs
        self._filled_generation: int | None = None

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
        if fused_step.at_once and (delta is None or delta.only_low_rank):
            low_rank = None if delta is None else delta.low_rank
            return self._at_once(hidden_states, position_embeddings, fused_step, low_rank)
        options |= {"attention_step": attention_step, "fused_step": fused_step}
        for layer in self.layers:
            hidden_states = layer(hidden_states, position_embeddings=position_embeddings, **options)
        return hidden_states

    def _at_once(
        self, states: Tensor, rotary: tuple[Tensor, Tensor], fused: FusedStep, low_rank: ColumnStep | None
    ) -> Tensor:
        states = states.clone(memory_format=torch.contiguous_format)
        turned = (rotary[0][0].contiguous(), rotary[1][0].contiguous())
        groups, columns, structs = None, 0, self._structs
        if low_rank is not None:
            groups, columns, structs = (
                low_rank.table,
                (low_rank.widest + 15) // 16 * 16,
                self._with_banks(low_rank.generation),
            )
        call = LayersCall(states[0], turned, fused.cached, groups, columns, self._sizes)
        self._kernels.decoder_layers(structs, call)
        return states

    def _with_banks(self, generation: int) -> ctypes.Array[LayerStruct]:
        if generation != self._filled_generation:
            self._filled_structs = layer_array([self._struct(i, filled=True) for i in range(len(self._parts))])
            self._filled_generation = generation
        return self._filled_structs

    def _struct(self, index: int, *, filled: bool) -> LayerStruct:
        parts = self._parts[index]
        banks = [parts.bank(name) if filled else BankStruct() for name in MODULES]
        return LayerStruct(
            parts.input_norm.address,
            parts.inner_norm.address,
            *(address for linear in parts.products for address in linear.addresses()),
            *banks,
            parts.attention.window or 0,
            self._layouts[index],
        )


class _Parts:
    """One decoder layer's modules as the kernel wants them; raises TypeError where they are not such."""

    def __init__(self, layer: nn.Module) -> None:
        attention, block = layer.self_attn, layer.mlp
        self.input_norm = _norm(layer.input_layernorm)
        self.inner_norm = _norm(layer.post_attention_layernorm)
        self.attention, self.block = _a(FusedAttention, attention), _a(FusedGate, block)
        parents = {name: self.block if name in ("gate", "up", "down") else self.attention for name in MODULES}
        self.linears = {name: _a(DeltaLinear, getattr(parents[name], f"{name}_proj")) for name in MODULES}
        qkv, gate_up = (_a(SharedLinear, self.linears[name].base).product.linear for name in ("q", "gate"))
        o, down = (self.linears[name].base for name in ("o", "down"))
        self.products = [_a(TiledLinear, linear) for linear in (qkv, o, gate_up, down)]

    def sizes(self) -> LayerSizes:
        qkv, o, gate_up, _ = (linear.shape for linear in self.products)
        return LayerSizes(
            hidden=qkv[1],
            inner=gate_up[0] // 2,
            query=o[1],
            qkv=qkv[0],
            epsilon=self.input_norm.epsilon,
            scaling=self.attention.scaling,
        )

    def bank(self, name: str) -> BankStruct:
        bank = self.linears[name].low_rank
        return BankStruct() if bank is None else BankStruct(bank.a.data_ptr(), bank.b.data_ptr())


def fuse_layers(backbone: nn.Module, context: StepContext, kernels: Kernels, layouts: Sequence[Tensor]) -> bool:
    """Let one module stand for all layers of a backbone, all fused; returns whether that could be done."""
    try:
        fused = FusedLayers(list(backbone.layers), context, kernels, layouts)  # type: ignore[arg-type]
    except (TypeError, AttributeError):
        return False
    backbone.layers = nn.ModuleList([fused])
    return True


def _norm(module: object) -> FusedNorm:
    return _a(FusedNorm, module.base if isinstance(module, DeltaNorm) else module)


def _a(kind: type[T], module: object) -> T:
    if not isinstance(module, kind):
        raise TypeError(f"{type(module).__name__} is no {kind.__name__}")
    return module

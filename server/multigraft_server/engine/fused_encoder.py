"""Blocks of transformers' encoders computed by the compiled kernels, in the place of the models' own modules.

Each keeps its module's children under the same names, and computes what it computes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import GELUActivation

from multigraft_server.engine.attention import packed_attention
from multigraft_server.engine.attention_step import AttentionStep
from multigraft_server.engine.kernels.many import ManyTokens

LAYERS = ("BertLayer", "RobertaLayer")
RESIDUALS = ("BertSelfOutput", "BertOutput", "RobertaSelfOutput", "RobertaOutput")


class FusedGelu(nn.Module):
    """x Phi(x), in the place of x, which only the block that has made it reads."""

    def __init__(self, kernels: ManyTokens) -> None:
        super().__init__()
        self._kernels = kernels

    def forward(self, x: Tensor) -> Tensor:
        """(..., n) -> (..., n)."""
        return self._kernels.gelu(x) if x.is_contiguous() else torch.nn.functional.gelu(x)


class FusedNorm(nn.Module):
    """A layer norm (`nn.LayerNorm`) of one dimension, of x or of x + residual."""

    def __init__(self, norm: nn.LayerNorm, kernels: ManyTokens) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self._epsilon = norm.eps
        self._kernels = kernels

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """(..., n) -> (..., n)."""
        return self._kernels.layer_norm(x, residual, self.weight, self.bias, self._epsilon)


class FusedResidual(nn.Module):
    """The end of an encoder's block (transformers' `BertOutput`): LayerNorm(dense(x) + residual)."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.dense, self.LayerNorm = block.dense, block.LayerNorm

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        """(1, tokens, m), (1, tokens, n) -> (1, tokens, n)."""
        y: Tensor = self.LayerNorm(self.dense(hidden_states), input_tensor)  # type: ignore[operator]
        return y


class FusedLayer(nn.Module):
    """A layer of an encoder (transformers' `BertLayer`) in a packed step: attention and the feed-forward block."""

    attention: Any
    intermediate: Any
    output: Any

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.attention, self.intermediate, self.output = layer.attention, layer.intermediate, layer.output

    def forward(self, states: Tensor, *nothing: None, attention_step: AttentionStep, **options: Any) -> Tensor:
        """(1, tokens, n) -> (1, tokens, n)."""
        attention = self.attention.self
        shape = (1, states.shape[1], attention.num_attention_heads, attention.attention_head_size)
        query, key, value = (
            linear(states).view(shape).transpose(1, 2)
            for linear in (attention.query, attention.key, attention.value)
        )
        scaling = attention.scaling
        own, _ = packed_attention(
            attention, query, key, value, None, scaling=scaling, attention_step=attention_step
        )
        attended = self.attention.output(own.flatten(2), states)
        between = self.intermediate.intermediate_act_fn(self.intermediate.dense(attended))
        y: Tensor = self.output(between, attended)
        return y


def fuse_encoder(backbone: nn.Module, kernels: ManyTokens) -> None:
    """Replace the blocks of an encoder that the kernels can compute; before its modules are wrapped."""
    for path, module in list(backbone.named_modules()):
        own = _fused(module, kernels)
        if own is not None:
            parent, _, name = path.rpartition(".")
            setattr(backbone.get_submodule(parent), name, own)


def _fused(module: nn.Module, kernels: ManyTokens) -> nn.Module | None:
    if isinstance(module, GELUActivation) and module.act is torch.nn.functional.gelu:
        return FusedGelu(kernels)
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1 and module.elementwise_affine:
        return FusedNorm(module, kernels)
    if type(module).__name__ in LAYERS and not module.is_decoder:
        return FusedLayer(module)
    if type(module).__name__ in RESIDUALS:
        return FusedResidual(module)
    return None

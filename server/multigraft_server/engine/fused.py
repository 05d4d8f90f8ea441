"""Blocks of transformers' models computed by the compiled kernels, in the place of the models' own modules.

Each keeps its module's children and parameters under the same names, and computes what it computes.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.activations import SiLUActivation

from multigraft_server.engine.attention import attend_many
from multigraft_server.engine.attention_step import AttentionStep
from multigraft_server.engine.fused_step import FusedStep
from multigraft_server.engine.kernels import Kernels
from multigraft_server.engine.kernels.kernels import MOST_HEAD_SIZE, MOST_SHARED_QUERIES

NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")
GATED = ("LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP")
ROTARY = ("LlamaAttention", "MistralAttention", "Qwen2Attention")


class FusedNorm(nn.Module):
    """T5's layer norm without mean and bias (transformers' `LlamaRMSNorm`): weight * x / rms(x)."""

    def __init__(self, norm: nn.Module, kernels: Kernels) -> None:
        super().__init__()
        self.weight: Tensor = norm.weight  # type: ignore[assignment]
        self.epsilon = float(norm.variance_epsilon)  # type: ignore[arg-type]
        self._kernels = kernels

    def forward(self, x: Tensor) -> Tensor:
        """(..., n) -> (..., n)."""
        return self._kernels.rms_norm(x, self.weight, self.epsilon)

    @property
    def address(self) -> int:
        """Where its weight lies in memory."""
        return self.weight.data_ptr()


class FusedGate(nn.Module):
    """A gated feed-forward block (transformers' `LlamaMLP`): down(silu(gate(x)) * up(x))."""

    def __init__(self, block: nn.Module, kernels: Kernels) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = block.gate_proj, block.up_proj, block.down_proj
        self._kernels = kernels

    def forward(self, x: Tensor) -> Tensor:
        """(1, tokens, n) -> (1, tokens, n)."""
        gate, up = self.gate_proj(x), self.up_proj(x)  # type: ignore[operator]
        y: Tensor = self.down_proj(self._kernels.silu_gate(gate[0], up[0])[None])  # type: ignore[operator]
        return y


class FusedAttention(nn.Module):
    """Attention with rotary positions (transformers' `LlamaAttention`) in a packed step: what goes on by one token
    is computed over the cache where it lies."""

    def __init__(self, attention: nn.Module, kernels: Kernels) -> None:
        super().__init__()
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self, name, getattr(attention, name))
        self.layer_idx: int = attention.layer_idx  # type: ignore[assignment]
        self._size: int = attention.head_dim  # type: ignore[assignment]
        self.scaling: float = attention.scaling  # type: ignore[assignment]
        self.window = _window(attention)
        self._kernels = kernels

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        *,
        attention_step: AttentionStep,
        fused_step: FusedStep,
        **options: Any,
    ) -> tuple[Tensor, None]:
        """(1, tokens, n) -> (1, tokens, n); cosines and sines are (1, tokens, size)."""
        query, key, value = (getattr(self, name)(hidden_states)[0] for name in ("q_proj", "k_proj", "v_proj"))
        step, fused = attention_step, fused_step
        layout = fused.layouts[self.layer_idx]
        rotary = (position_embeddings[0][0], position_embeddings[1][0])
        self._kernels.rotate_and_cache(query, key, value, rotary, fused.cached, layout)
        out = query.new_empty((query.shape[0], query.shape[1] // self._size, self._size))
        if step.whole or step.prefixed or step.chunks:
            by_head = [part.unflatten(1, (-1, self._size)) for part in (query, key, value)]
            attend_many(
                out,
                by_head[0],
                by_head[1],
                by_head[2],
                self.layer_idx,
                step,
                scaling=self.scaling,
                window=self.window,
            )
        if len(fused.decodes):
            self._attend_cached(query, out, fused, layout)
        return self.o_proj(out.flatten(1)[None]), None  # type: ignore[operator]

    def _attend_cached(self, query: Tensor, out: Tensor, fused: FusedStep, layout: Tensor) -> None:
        self._kernels.attend_cached(
            query,
            out,
            fused.cached,
            fused.decodes,
            layout,
            window=self.window,
            scaling=self.scaling,
            work=fused.work,
        )


def fuse_blocks(backbone: nn.Module, kernels: Kernels) -> bool:
    """Replace the blocks that the kernels can compute; returns whether attention is among them."""
    attends = False
    for path, module in list(backbone.named_modules()):
        own = _fused(module, kernels)
        if own is not None:
            parent, _, name = path.rpartition(".")
            setattr(backbone.get_submodule(parent), name, own)
            attends |= isinstance(own, FusedAttention)
    return attends


def _fused(module: nn.Module, kernels: Kernels) -> nn.Module | None:
    kind = type(module).__name__
    if kind in NORMS:
        return FusedNorm(module, kernels)
    if kind in GATED and isinstance(module.act_fn, nn.SiLU | SiLUActivation):
        return FusedGate(module, kernels)
    if kind in ROTARY and _can_attend(module):
        return FusedAttention(module, kernels)
    return None


def _can_attend(attention: nn.Module) -> bool:
    size: int = attention.head_dim  # type: ignore[assignment]
    shared: int = attention.num_key_value_groups  # type: ignore[assignment]
    return size % 2 == 0 and size <= MOST_HEAD_SIZE and shared <= MOST_SHARED_QUERIES


def _window(attention: nn.Module) -> int | None:
    """The tokens that a layer looks back: Qwen2 decides by layer, Mistral by config, Llama looks at all."""
    if type(attention).__name__ == "MistralAttention":
        return getattr(attention.config, "sliding_window", None)
    return getattr(attention, "sliding_window", None)

"""LoRA: y += scaling * B A x at each target, with rsLoRA, patterns, DoRA and biases.

At an embedding x is the one-hot vector of an id, so that A x is a column of A.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True, slots=True)
class LoraPair:
    """The two factors of one target's delta, in their stored dtypes; `scaling` is of the pair's own rank.

    With a `magnitude` it is DoRA's; `b_bias` is a bias of B's. At an embedding `in` counts ids.
    """

    a: Tensor  # (rank, in)
    b: Tensor  # (out, rank)
    scaling: float
    magnitude: Tensor | None = None  # (out,)
    b_bias: Tensor | None = None  # (out,)

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (self.a, self.b, self.magnitude, self.b_bias) if part is not None)

    def dora_scale(self, weight: Tensor) -> Tensor | None:
        """DoRA's magnitude / ||W + scaling * B A||, by output: weight (out, in) fp32 -> (out,); None for LoRA.

        Liu et al. 2024, arXiv 2402.09353; as PEFT computes it at inference, in fp32.
        """
        if self.magnitude is None:
            return None
        moved = weight + self.scaling * (self.b.float() @ self.a.float())
        norm: Tensor = moved.norm(dim=1)
        return self.magnitude.float() / norm


@dataclass(frozen=True, slots=True)
class LoraDelta:
    """A LoRA adapter's delta: its pairs at linear modules (the output head is `OUTPUT_HEAD`) and at embeddings by
    path of the base's spec, and the biases that it trained, each in the place of the base's own."""

    pairs: Mapping[str, LoraPair]
    biases: Mapping[str, Tensor] = field(default_factory=dict)
    embeddings: Mapping[str, LoraPair] = field(default_factory=dict)

    @property
    def max_rank(self) -> int:
        return max(pair.rank for pair in (*self.pairs.values(), *self.embeddings.values()))

    @property
    def nbytes(self) -> int:
        of_pairs = sum(pair.nbytes for pair in (*self.pairs.values(), *self.embeddings.values()))
        return of_pairs + sum(bias.nbytes for bias in self.biases.values())

    @property
    def modules(self) -> Mapping[str, LoraPair | None]:
        """Every module that is changed, with its pair if it has one."""
        paths = (*self.pairs, *self.embeddings, *self.biases)
        return {path: self.pairs.get(path) or self.embeddings.get(path) for path in paths}

    def forward(self, path: str, module: nn.Module, x: Tensor) -> Tensor:
        """The reference: what the module at `path` computes with the delta. x (..., in) -> (..., out); an
        embedding takes ids (...)."""
        if path in self.embeddings:
            return _embed(module, x, self.embeddings[path])
        bias = _bias_of(module)
        y: Tensor = module.forward(x) - bias
        pair, bias = self.pairs.get(path), self.biases[path].to(y) if path in self.biases else bias
        if pair is not None:
            y = y + apply_lora(x, pair)
            scale = pair.dora_scale(weight_of(module))
            y = y if scale is None else y * scale.to(y)
        return y + bias


def apply_lora(x: Tensor, pair: LoraPair) -> Tensor:
    """What the pair adds to its target's output: scaling * (x A^T B^T + B's bias), in the dtype of `x`.

    `x` is (..., in), the result (..., out). This is the reference that every faster form is tested against. DoRA
    rescales the sum of it and the base's product.
    """
    product = (x @ pair.a.to(x).T) @ pair.b.to(x).T
    return pair.scaling * (product if pair.b_bias is None else product + pair.b_bias.to(x))


def weight_of(module: nn.Module) -> Tensor:
    """The weight (out, in) of a linear module or an embedding in fp32, however it is stored."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    return (weight.t() if isinstance(module, Conv1D | nn.Embedding) else weight).float()


def embed_scale_of(embedding: nn.Module) -> float:
    """What some families multiply their embeddings with, inside the module, in their precision."""
    weight: Tensor = embedding.weight  # type: ignore[assignment]
    return float(torch.as_tensor(getattr(embedding, "embed_scale", 1.0)).to(weight.dtype))


def _embed(embedding: nn.Module, ids: Tensor, pair: LoraPair) -> Tensor:
    y: Tensor = embedding.forward(ids)
    added = functional.embedding(ids, pair.a.to(y).T) @ pair.b.to(y).T
    y = y + pair.scaling * embed_scale_of(embedding) * added
    scale = pair.dora_scale(weight_of(embedding))
    return y if scale is None else y * scale.to(y)


def _bias_of(module: nn.Module) -> Tensor | float:
    bias: Tensor | None = module.bias  # type: ignore[assignment]
    return 0.0 if bias is None else bias

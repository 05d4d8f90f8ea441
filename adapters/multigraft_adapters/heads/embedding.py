"""The embedding head: a row's pooled state, scaled to length 1 where the adapter says so. It has no tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multigraft_adapters.bases.spec import BaseSpec
from multigraft_adapters.heads.head import check_shapes, refuse_fields
from multigraft_adapters.manifest import HeadSpec

POOLINGS = ("mean", "cls", "last")


@dataclass(frozen=True, slots=True)
class EmbeddingHead:
    """The pooled state itself, in fp32; `spec.normalize` scales it to length 1."""

    spec: HeadSpec

    @property
    def nbytes(self) -> int:
        return 0

    def to(self, device: torch.device | str) -> EmbeddingHead:
        return self

    def forward(self, states: Tensor) -> Tensor:
        """Pooled states (rows, hidden) to vectors (rows, hidden), fp32."""
        vectors = states.float()
        return torch.nn.functional.normalize(vectors, dim=-1) if self.spec.normalize else vectors


def read_embedding(
    wanted: HeadSpec,
    id2label: Mapping[int, str] | None,
    tensors: dict[str, Tensor],
    spec: BaseSpec,
    problems: list[str],
) -> EmbeddingHead | None:
    """The head of a feature-extraction adapter, mean-pooled and normalised by default; see `HeadKind.read`."""
    found: list[str] = []
    if spec.image is not None:
        found.append(f"feature-extraction embeds texts, and the base {spec.name!r} reads images")
    pooling = wanted.pooling or "mean"
    if pooling not in POOLINGS:
        found.append(f"head.pooling: an embedding reads one of {', '.join(POOLINGS)}, not {pooling!r}")
    refuse_fields(wanted, ("activation",), found)
    check_shapes(wanted, {}, found)
    problems += found
    normalize = True if wanted.normalize is None else wanted.normalize
    return None if found else EmbeddingHead(HeadSpec(kind=wanted.kind, pooling=pooling, normalize=normalize))


def decode_embedding(vector: np.ndarray[Any, np.dtype[np.float32]]) -> list[float]:
    """One row's vector (hidden,) as the answer's numbers."""
    return [float(number) for number in vector]

"""The generation head: none of its own, the base's output head turns a row's last state into tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from multigraft_adapters.bases.spec import BaseSpec
from multigraft_adapters.heads.head import check_shapes, refuse_fields
from multigraft_adapters.manifest import HeadSpec


@dataclass(frozen=True, slots=True)
class GenerationHead:
    """Passes states on to the base's output head."""

    spec: HeadSpec

    @property
    def nbytes(self) -> int:
        return 0

    def to(self, device: torch.device | str) -> GenerationHead:
        return self

    def forward(self, states: Tensor) -> Tensor:
        """The states (rows, hidden) as they are, in fp32."""
        return states.float()


def read_generation(
    wanted: HeadSpec,
    id2label: Mapping[int, str] | None,
    tensors: dict[str, Tensor],
    spec: BaseSpec,
    problems: list[str],
) -> GenerationHead | None:
    """The head of a text-generation adapter; see `HeadKind.read`."""
    found: list[str] = []
    if spec.family != "decoder":
        found.append(f"text-generation needs a decoder, and the base {spec.name!r} is an {spec.family}")
    refuse_fields(wanted, ("pooling", "activation", "normalize"), found)
    check_shapes(wanted, {}, found)
    problems += found
    return None if found else GenerationHead(HeadSpec(kind=wanted.kind))

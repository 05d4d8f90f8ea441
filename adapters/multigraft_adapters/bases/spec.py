"""What a base is to an adapter: its family, the modules a delta may target, its fingerprint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Family = Literal["decoder", "encoder"]


@dataclass(frozen=True, slots=True)
class LinearShape:
    """The shape of a linear map x -> y, whatever the layout in which its weight is stored."""

    in_features: int
    out_features: int


@dataclass(frozen=True, slots=True)
class KVLayout:
    """What one token of one row keeps in the KV cache: 2 x layers x heads x head_dim numbers."""

    layers: int
    heads: int
    head_dim: int

    @property
    def numbers_per_token(self) -> int:
        return 2 * self.layers * self.heads * self.head_dim


@dataclass(frozen=True, slots=True)
class BaseSpec:
    """Everything that verification and the engine must know of a base, without its weights.

    `name` is how the server shows the base. `targets` maps the path of each linear module inside the bare
    backbone (`AutoModel`) to its shape. `backbone_prefix` is what task models put before that path (`model`,
    `bert`, `transformer`). `max_length` is in tokens. `fingerprint` is `sha256:` + hex over the tensors'
    bytes as stored and the architecture's fields.
    """

    name: str
    model_type: str
    family: Family
    hidden_size: int
    vocab_size: int
    max_length: int
    targets: Mapping[str, LinearShape]
    kv: KVLayout | None
    has_pooler: bool
    backbone_prefix: str
    fingerprint: str
    tokenizer_hash: str

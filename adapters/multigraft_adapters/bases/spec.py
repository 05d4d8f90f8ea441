"""What a base is to an adapter: its family, the modules a delta may target, its fingerprint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from multigraft_adapters.manifest import Pooling

if TYPE_CHECKING:
    from torch import Tensor

Family = Literal["decoder", "encoder"]
OUTPUT_HEAD = "lm_head"
"""The path of a decoder's output head, in the task model that has one and wherever a delta names it."""


@dataclass(frozen=True, slots=True)
class LinearShape:
    """The shape of a linear map x -> y, whatever the layout in which its weight is stored."""

    in_features: int
    out_features: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a base's checkpoint holds a tensor."""

    file: Path
    name: str

    def read(self) -> Tensor:
        """The tensor as it is stored."""
        from multigraft_adapters.bases.fingerprint import read_tensor  # imports torch

        return read_tensor(self.file, self.name)


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
class ImageShape:
    """The pixels that an image base takes, in `transformers`' order."""

    channels: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class NormLayer:
    """A layer norm of a head, by its path in the task model."""

    path: str
    eps: float
    bias: bool


@dataclass(frozen=True, slots=True)
class HiddenLayer:
    """What some heads compute before their output: norm(activation(linear(state))).

    `linear` is the linear module's path in the task model, `activation` its name in transformers' `ACT2FN`.
    """

    linear: str
    activation: str
    bias: bool = True
    norm: NormLayer | None = None


@dataclass(frozen=True, slots=True)
class HeadLayout:
    """What one of transformers' task models puts on a backbone's states.

    `output` is the path of its last linear module, with or without a `bias`. `pooling` is the state that it reads,
    None where it reads every token's. `backbone_prefix` is given where this task model keeps the backbone
    elsewhere than the family's others. `others` are what an adapter made elsewhere may put there instead, if its
    manifest says which state it reads.
    """

    output: str
    pooling: Pooling | None = None
    bias: bool = True
    hidden: HiddenLayer | None = None
    backbone_prefix: str | None = None
    others: tuple[HeadLayout, ...] = ()

    def of(self, pooling: Pooling | None, tensors: Iterable[str]) -> HeadLayout:
        """This layout, or of the others the one that reads this state and has its output among the tensors."""
        names = set(tensors)
        fitting = (
            other for other in self.others if other.pooling == pooling and other.output_tensors["weight"] in names
        )
        native = pooling in (None, self.pooling) and self.output_tensors["weight"] in names
        return self if native else next(fitting, self)

    @property
    def output_tensors(self) -> dict[str, str]:
        """The paths in the task model of the output's `weight` and, if there is one, `bias`."""
        return _linear_tensors("", self.output, self.bias)

    @property
    def hidden_tensors(self) -> dict[str, str]:
        """The paths of what is before the output, by `hidden.` or `norm.` and `weight` or `bias`."""
        hidden = self.hidden
        if hidden is None:
            return {}
        norm = hidden.norm
        of_norm = _linear_tensors("norm.", norm.path, norm.bias) if norm is not None else {}
        return _linear_tensors("hidden.", hidden.linear, hidden.bias) | of_norm

    @property
    def modules(self) -> set[str]:
        """The names of the modules that hold these tensors, and of those around them."""
        paths = [*self.output_tensors.values(), *self.hidden_tensors.values()]
        modules = [path.split(".")[:-1] for path in paths]
        return {".".join(parts[:end]) for parts in modules for end in range(1, len(parts) + 1)}


def _linear_tensors(prefix: str, module: str, has_bias: bool) -> dict[str, str]:
    return {f"{prefix}{part}": f"{module}.{part}" for part in ("weight", "bias")[: 1 + has_bias]}


@dataclass(frozen=True, slots=True)
class BaseSpec:
    """Everything that verification and the engine must know of a base, without its weights.

    `name` is how the server shows the base. `targets` maps the path of each linear module inside the bare
    backbone (`AutoModel`) to its shape. `backbone_prefix` is what task models put before that path (`model`,
    `bert`, `transformer`). `max_length` is in tokens; an image base, whose pixels have the shape `image`, has
    always that many (its patches and the class token) and no vocabulary. `fingerprint` is `sha256:` + hex over
    the tensors' bytes as stored and the architecture's fields; `tokenizer_hash` that of the tokenizer, or of what
    turns images into pixels. `heads` tells, by task type, how transformers' task models of this base answer; a
    type that is not in it has no such model. `prefix` is the layout of the keys and values that may be put before
    a row's, None where its attention takes none. `head_tensors` are, by path, what the base's own checkpoint
    holds of the layers before their outputs: such an adapter need not bring them.

    A delta may also be at `embeddings`, by path, from ids to vectors; at the `norms` that have a bias, by path,
    each with its number of features; and at the output head of a decoder's generating model, from states to the
    vocabulary. `tied_to` is the path of the embeddings whose weight the output head has, None where it has one of
    its own. `stored` says where the weights of embeddings and output head are, by path: some adapters copy them.
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
    heads: Mapping[str, HeadLayout] = field(default_factory=dict)
    image: ImageShape | None = None
    prefix: KVLayout | None = None
    head_tensors: Mapping[str, Tensor] = field(default_factory=dict, compare=False, repr=False)
    embeddings: Mapping[str, LinearShape] = field(default_factory=dict)
    norms: Mapping[str, int] = field(default_factory=dict)
    output_head: LinearShape | None = None
    tied_to: str | None = None
    stored: Mapping[str, StoredTensor] = field(default_factory=dict, compare=False, repr=False)

    def of_task(self, task_type: str) -> BaseSpec:
        """The base as a task model has it: under its name, without the pooler where its head reads none, and
        without the output head where it does not generate."""
        layout = self.heads.get(task_type)
        if task_type != "text-generation" and self.output_head is not None:
            return replace(self, output_head=None).of_task(task_type)
        if layout is None:
            return self
        has_pooler = layout.pooling == "pooler"
        targets = {
            path: shape for path, shape in self.targets.items() if has_pooler or not path.startswith("pooler.")
        }
        return replace(self, targets=targets, backbone_prefix=layout.backbone_prefix or self.backbone_prefix)

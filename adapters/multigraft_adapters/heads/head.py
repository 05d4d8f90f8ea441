"""What a head is to the rest of the system, and the kinds that there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from multigraft_adapters.bases.spec import BaseSpec
from multigraft_adapters.catalogue import Catalogue
from multigraft_adapters.manifest import HeadSpec, TaskType


class Head(Protocol):
    """One adapter's head; holds its weights in fp32. Immutable: `to` gives a head on another device."""

    @property
    def spec(self) -> HeadSpec: ...

    @property
    def nbytes(self) -> int: ...

    def to(self, device: torch.device | str) -> Self: ...

    def forward(self, states: Tensor) -> Tensor:
        """States (rows, hidden) in any float dtype to what they answer, (rows, out) in fp32.

        A state is a row's pooled one or, where `spec.pooling` is None, a token's.
        """
        ...


ReadHead = Callable[
    [HeadSpec, Mapping[int, str] | None, dict[str, Tensor], BaseSpec, list[str]],
    Head | None,
]


@dataclass(frozen=True, slots=True)
class HeadKind:
    """A kind of head.

    `task_types` are those that it answers; `modules` are the names that PEFT itself puts into modules_to_save.
    `read(wanted, id2label, tensors, spec, problems)` takes the head's tensors out of `tensors` and returns the
    head, its spec complete, or None with every problem noted.
    """

    kind: str
    task_types: tuple[TaskType, ...]
    modules: tuple[str, ...]
    read: ReadHead

    def modules_on(self, spec: BaseSpec) -> list[str]:
        """The names that modules_to_save may have: PEFT's, and those of the head's modules on this base."""
        layouts = (spec.heads[task_type] for task_type in self.task_types if task_type in spec.heads)
        return sorted(set(self.modules).union(*(layout.modules for layout in layouts)))


HEAD_KINDS: Catalogue[HeadKind] = Catalogue("head kind", lambda kind: kind.task_types)


def register(kind: HeadKind) -> None:
    """Add a kind; raises ValueError when its name is not lower case, or it or a task type of it is taken."""
    HEAD_KINDS.add(kind.kind, kind)


def kind_for(task_type: TaskType) -> HeadKind | None:
    """The head kind that answers a task type, if there is one."""
    return HEAD_KINDS.of(task_type)


def refuse_fields(wanted: HeadSpec, fields: tuple[str, ...], problems: list[str]) -> None:
    """Note a problem for each of these fields that is given; this kind of head has none."""
    for field in fields:
        if getattr(wanted, field) is not None:
            problems.append(f"head.{field}: a head of kind {wanted.kind!r} has none")


def check_shapes(wanted: HeadSpec, shapes: Mapping[str, list[int]], problems: list[str]) -> None:
    """Note a problem when the manifest gives shapes and the tensors have others."""
    if wanted.shapes and wanted.shapes != dict(shapes):
        problems.append(f"head.shapes: task.json says {wanted.shapes}, the tensors have {dict(shapes)}")

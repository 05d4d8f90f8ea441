"""`task.json`: what an adapter is for and where it came from, strict and complete."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from multigraft_adapters.errors import InvalidAdapterError

TaskType = Literal["text-classification", "feature-extraction", "text-generation"]
TASK_TYPES: tuple[TaskType, ...] = ("text-classification", "feature-extraction", "text-generation")
Pooling = Literal["pooler", "cls", "mean", "last"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class HeadSpec(_Part):
    """How hidden states become an answer.

    `kind` names a registered head; `pooling` says which state of the row it reads (`pooler` is the base's own
    first-token pooler); `shapes` gives its tensors by name.
    """

    kind: str
    pooling: Pooling | None = None
    activation: Literal["softmax", "sigmoid", "none"] | None = None
    normalize: bool | None = None
    shapes: dict[str, list[int]] = Field(default_factory=dict)


class BaseRef(_Part):
    """The base that the adapter was trained on; `fingerprint` is that of `BaseSpec`."""

    id: str | None = None
    revision: str | None = None
    fingerprint: str | None = None


class MethodSpec(_Part):
    """The kind of delta and its parameters, as the trainer was told."""

    name: str
    parameters: dict[str, Any] = Field(default_factory=dict)


class Sample(_Part):
    """One input and the answer that the trainer computed for it; `push` compares the server's answer."""

    inputs: Any
    parameters: dict[str, Any] = Field(default_factory=dict)
    output: Any


class Manifest(_Part):
    """The whole of `task.json`. Frozen: a change makes another adapter."""

    schema_version: Literal[1] = 1
    task_type: TaskType
    problem_type: Literal["single_label_classification"] | None = None
    id2label: dict[int, str] | None = None
    head: HeadSpec
    max_length: int | None = Field(default=None, ge=1)
    base: BaseRef = Field(default_factory=BaseRef)
    tokenizer_hash: str | None = None
    prompt: str | None = Field(default=None, description="system prompt put before a chat that has none")
    method: MethodSpec
    metrics: dict[str, float] = Field(default_factory=dict)
    data_hash: str | None = None
    seed: int | None = None
    library_versions: dict[str, str] = Field(default_factory=dict)
    samples: list[Sample] = Field(default_factory=list)

    @model_validator(mode="after")
    def _labels_match_task(self) -> Manifest:
        if self.task_type == "text-classification":
            if not self.id2label:
                raise ValueError("id2label: a text-classification task needs its labels")
            if sorted(self.id2label) != list(range(len(self.id2label))):
                raise ValueError("id2label: the ids must be 0, 1, 2, ... without gaps")
            if len(set(self.id2label.values())) != len(self.id2label):
                raise ValueError("id2label: two ids have the same label")
        elif self.id2label:
            raise ValueError(f"id2label: a {self.task_type} task has no labels")
        return self


def canonical_json(value: Any) -> bytes:
    """The one byte form of a JSON value: sorted keys, no spaces, UTF-8, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def manifest_bytes(manifest: Manifest) -> bytes:
    """The canonical bytes of a manifest, `None` fields left out."""
    return canonical_json(manifest.model_dump(mode="json", exclude_none=True))


def parse_manifest(value: Mapping[str, Any]) -> Manifest:
    """The manifest in a JSON object; raises InvalidAdapterError naming every problem at once."""
    try:
        return Manifest.model_validate_json(canonical_json(dict(value)))
    except ValidationError as error:
        raise InvalidAdapterError("task.json is not valid", manifest_problems(error)) from None


def manifest_problems(error: ValidationError) -> list[str]:
    """One sentence per problem of a pydantic validation error."""
    return [
        f"task.json: {'.'.join(str(part) for part in problem['loc']) or 'the manifest'}: {problem['msg']}"
        for problem in error.errors()
    ]

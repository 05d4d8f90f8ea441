"""`task.json`: what an adapter is for and where it came from, strict and complete."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from multigraft_adapters.errors import InvalidAdapterError

TaskType = Literal[
    "text-classification",
    "token-classification",
    "question-answering",
    "feature-extraction",
    "text-generation",
    "image-classification",
]
TASK_TYPES: tuple[TaskType, ...] = (
    "text-classification",
    "token-classification",
    "question-answering",
    "feature-extraction",
    "text-generation",
    "image-classification",
)
CLASSIFICATIONS: tuple[TaskType, ...] = ("text-classification", "image-classification")
"""The task types that have a problem type: one label, several labels, or a number."""
LABELLED_TASKS: tuple[TaskType, ...] = (*CLASSIFICATIONS, "token-classification")
"""The task types whose head has labels."""
Pooling = Literal["pooler", "cls", "mean", "last"]
Activation = Literal["softmax", "sigmoid", "none"]
ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
ACTIVATION_OF: dict[str, Activation] = {"multi_label_classification": "sigmoid", "regression": "none"}
"""The problem types whose scores can be computed in one way only."""
Share = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class HeadSpec(_Part):
    """How hidden states become an answer.

    `kind` names a registered head; `pooling` says which state of the row it reads (`pooler` is the base's own
    first-token pooler), None that it reads every token's; `thresholds` are the scores that a label of a
    multi-label task must reach to be in the answer; `shapes` gives its tensors by name.
    """

    kind: str
    pooling: Pooling | None = None
    activation: Activation | None = None
    normalize: bool | None = None
    thresholds: dict[str, Share] | None = None
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
    problem_type: ProblemType | None = None
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
        labels = self.id2label
        if self.task_type not in LABELLED_TASKS:
            if labels:
                raise ValueError(f"id2label: a {self.task_type} task has no labels")
        elif not labels:
            raise ValueError(f"id2label: a {self.task_type} task needs its labels")
        elif sorted(labels) != list(range(len(labels))):
            raise ValueError("id2label: the ids must be 0, 1, 2, ... without gaps")
        elif len(set(labels.values())) != len(labels):
            raise ValueError("id2label: two ids have the same label")
        return self

    @model_validator(mode="after")
    def _problem_matches_head(self) -> Manifest:
        problem, activation = self.problem_type, self.head.activation
        if problem is None:
            return self
        if self.task_type not in CLASSIFICATIONS:
            raise ValueError(f"problem_type: a {self.task_type} task has none")
        if problem == "regression" and len(self.id2label or {}) != 1:
            raise ValueError("problem_type: a regression has one label, which names its number")
        needed = ACTIVATION_OF.get(problem)
        if needed is not None and activation != needed:
            raise ValueError(f"head.activation: {problem} has {needed!r}, not {activation!r}")
        return self

    @model_validator(mode="after")
    def _thresholds_match_labels(self) -> Manifest:
        thresholds = self.head.thresholds
        if thresholds is None:
            return self
        if self.problem_type != "multi_label_classification":
            raise ValueError("head.thresholds: only a multi-label classification has them")
        unknown = sorted(set(thresholds) - set((self.id2label or {}).values()))
        if unknown:
            raise ValueError(f"head.thresholds: {', '.join(map(repr, unknown))} is not in id2label")
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
        f"task.json: {'.'.join(str(part) for part in problem['loc']) or 'the manifest'}: {_plain(problem['msg'])}"
        for problem in error.errors()
    ]


def _plain(message: str) -> str:
    """A problem as we worded it, without what pydantic puts before it."""
    return message.removeprefix("Value error, ")

"""Completing a manifest: what task.json, the upload's declaration and PEFT's config say, brought together."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from multigraft_adapters.artifact import CONFIG_FILE, MANIFEST_FILE, Limits, shown
from multigraft_adapters.bases.spec import BaseSpec
from multigraft_adapters.declaration import PART, TaskDeclaration
from multigraft_adapters.heads import HeadKind, kind_for
from multigraft_adapters.manifest import (
    ACTIVATION_OF,
    CLASSIFICATIONS,
    LABELLED_TASKS,
    TASK_TYPES,
    HeadSpec,
    Manifest,
    ProblemType,
    TaskType,
    canonical_json,
    manifest_problems,
)
from multigraft_adapters.methods import Method

TASK_TYPE_OF_PEFT: dict[str, TaskType] = {
    "SEQ_CLS": "text-classification",
    "TOKEN_CLS": "token-classification",
    "QUESTION_ANS": "question-answering",
    "CAUSAL_LM": "text-generation",
    "FEATURE_EXTRACTION": "feature-extraction",
}
REGRESSION_LABEL = {"0": "LABEL_0"}
"""How transformers names the number of a regression that has no name."""
DECLARED = f"the part {PART!r}"
_LABELS = TypeAdapter(dict[int, str])


class Draft:
    """A manifest on its way to completeness, as JSON values. Sources that disagree are problems."""

    def __init__(self, given: Mapping[str, Any] | None, problems: list[str]) -> None:
        self._values: dict[str, Any] = copy.deepcopy(dict(given or {}))
        self._problems = problems
        self._noted: set[str] = set()  # fields whose absence is already a problem

    @property
    def task_type(self) -> str:
        """The task type so far; empty while nothing says it."""
        return str(self._values.get("task_type") or "")

    def declare(self, declaration: TaskDeclaration) -> None:
        """Add what the upload says."""
        for field, value in declaration.fields().items():
            self._put(self._values, field, value, DECLARED)
        for field, value in declaration.head_fields().items():
            self._put(self._part("head"), field, value, DECLARED, "head.")

    def settle_task_type(self, config: Mapping[str, Any] | None) -> HeadKind | None:
        """Settle the task type and with it the head's kind; None when nothing says it, or it is not served.

        `config` is PEFT's; None when it could not be read, and then a missing task type is no problem of its own.
        """
        of_peft = (config or {}).get("task_type")
        if of_peft is not None:
            served = TASK_TYPE_OF_PEFT.get(of_peft, of_peft) if isinstance(of_peft, str) else of_peft
            self._put(self._values, "task_type", served, CONFIG_FILE)
        task_type, head = self._values.get("task_type"), self._part("head")
        if task_type in TASK_TYPES and (kind := kind_for(task_type)) is not None:
            self._put(head, "kind", kind.kind, f"the task type {task_type}", "head.")
            return kind
        self._noted |= {"task_type", "head.kind"}
        if task_type is not None:
            self._problems.append(
                f"the task type {shown(task_type)} is not served; those are {', '.join(TASK_TYPES)}"
            )
        elif config is not None:
            self._problems.append(
                f"the task type is unknown: give task_type in {MANIFEST_FILE}, or in {DECLARED} of the upload"
            )
        return None

    def settle_method(self, method: Method | None, config: Mapping[str, Any] | None) -> None:
        """Settle the method and its parameters from a config that the method has accepted (None: it has not)."""
        part = self._part("method")
        if method is None:
            self._noted.add("method.name")
            return
        self._put(part, "name", method.name, CONFIG_FILE, "method.")
        _fill(part, "parameters", {})
        parameters = part["parameters"]
        if config is None or not isinstance(parameters, dict):
            return
        for name, value in method.describe(config).items():
            if isinstance(value, int | float) or name not in parameters:
                self._put(parameters, name, value, CONFIG_FILE, "method.parameters.")

    def settle_base(self, spec: BaseSpec) -> None:
        """Settle the base that the adapter is for, and refuse another one."""
        base = self._part("base")
        self._refuse_other(base, "fingerprint", spec.fingerprint, f"made for another base than {spec.name!r}")
        self._refuse_other(self._values, "tokenizer_hash", spec.tokenizer_hash, "made for another tokenizer")
        _fill(base, "fingerprint", spec.fingerprint)
        _fill(base, "id", spec.name)
        max_length = self._values.get("max_length")
        if type(max_length) is int and max_length > spec.max_length:
            self._problems.append(f"max_length: {max_length} is more than the base's {spec.max_length}")
        elif max_length is not None and spec.image is not None and max_length != spec.max_length:
            self._problems.append(f"max_length: every image has the same length, {spec.max_length}: leave it out")

    def wanted_head(self, kind: HeadKind) -> HeadSpec:
        """The head as it is asked for; one that is malformed is a problem, and read as if not given.

        Reading it finds the labels missing, where they are.
        """
        if self.task_type in LABELLED_TASKS and not self._values.get("id2label"):
            self._noted.add("the manifest")
        if self._problem_type in ACTIVATION_OF:
            _fill(self._part("head"), "activation", ACTIVATION_OF[self._problem_type])
        try:
            return HeadSpec.model_validate_json(canonical_json(self._values["head"]))
        except ValidationError as error:
            self._noted.add("head")
            self._problems += [
                f"{MANIFEST_FILE}: {'.'.join(map(str, ('head', *problem['loc'])))}: {problem['msg']}"
                for problem in error.errors()
            ]
            return HeadSpec(kind=kind.kind)

    def settle_head(self, head: HeadSpec) -> None:
        """Take the completed head."""
        self._values["head"] = head.model_dump(mode="json", exclude_none=True)

    def labels(self, limits: Limits) -> dict[int, str] | None:
        """The label map; None when there is none, or it is malformed."""
        if self._problem_type == "regression":
            _fill(self._values, "id2label", REGRESSION_LABEL)
        try:
            labels = _LABELS.validate_json(canonical_json(self._values.get("id2label")), strict=True)
        except ValidationError:
            return None
        if len(labels) > limits.max_labels:
            self._problems.append(f"id2label: {len(labels)} labels are more than the cap of {limits.max_labels}")
        return labels

    def finish(self) -> Manifest | None:
        """The manifest; None, with its problems noted, when it is not valid."""
        if self.task_type in CLASSIFICATIONS:
            _fill(self._values, "problem_type", self._implied_problem())
        if self._values.get("prompt") is not None and self._values.get("task_type") != "text-generation":
            self._problems.append("prompt: only a text-generation task has one")
        try:
            return Manifest.model_validate_json(canonical_json(self._values))
        except ValidationError as error:
            known = tuple(f"{MANIFEST_FILE}: {field}{end}" for field in self._noted for end in ":.")
            self._problems += [text for text in manifest_problems(error) if not text.startswith(known)]
            return None

    @property
    def _problem_type(self) -> str:
        """The problem type so far, of a task that can have one; empty while nothing says it."""
        can_have = self.task_type in ("", *CLASSIFICATIONS)
        return str(self._values.get("problem_type") or "") if can_have else ""

    def _implied_problem(self) -> ProblemType:
        """What a classification whose problem type nobody says is, by its labels and their activation."""
        activation, labels = self._part("head").get("activation"), self._values.get("id2label")
        has_one = isinstance(labels, dict) and len(labels) == 1
        if activation == "none" and has_one:
            return "regression"
        if activation == "sigmoid" and not has_one:
            return "multi_label_classification"
        return "single_label_classification"

    def _part(self, name: str) -> dict[str, Any]:
        """The object at a top-level field; one that is not an object is left for `finish` to refuse."""
        _fill(self._values, name, {})
        part = self._values[name]
        return part if isinstance(part, dict) else {}

    def _put(self, where: dict[str, Any], field: str, value: Any, source: str, prefix: str = "") -> None:
        """Fill in a field; another value that is there already is a problem."""
        present = where.get(field)
        if present is None:
            where[field] = value
        elif present != value:
            self._problems.append(
                f"{prefix}{field}: {source} says {shown(value)}, which disagrees with {shown(present)}"
            )

    def _refuse_other(self, where: Mapping[str, Any], field: str, expected: str, problem: str) -> None:
        present = where.get(field)
        if present is not None and present != expected:
            self._problems.append(f"{problem}: its {field} is {shown(present)}, not {expected}")


def _fill(where: dict[str, Any], field: str, value: Any) -> None:
    if where.get(field) is None:
        where[field] = value

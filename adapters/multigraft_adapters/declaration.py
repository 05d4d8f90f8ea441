"""What an upload may say about an adapter that has no manifest, or an incomplete one."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from multigraft_adapters.artifact import capped
from multigraft_adapters.errors import InvalidAdapterError
from multigraft_adapters.manifest import Activation, Pooling, ProblemType, Share, TaskType, canonical_json
from multigraft_adapters.strict_json import parse_object

PART = "task"
"""The name of the upload's part that holds a declaration."""


class TaskDeclaration(BaseModel):
    """The upload's `task` part. What is None is said elsewhere, or left to the default of the task type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    task_type: TaskType | None = None
    problem_type: ProblemType | None = None
    id2label: dict[int, str] | None = None
    pooling: Pooling | None = None
    activation: Activation | None = None
    normalize: bool | None = None
    thresholds: dict[str, Share] | None = None
    max_length: int | None = Field(default=None, ge=1)
    prompt: str | None = None

    def fields(self) -> dict[str, Any]:
        """The manifest's top-level fields that are declared, as JSON values."""
        return self._declared({"task_type", "problem_type", "id2label", "max_length", "prompt"})

    def head_fields(self) -> dict[str, Any]:
        """The fields of the manifest's head that are declared, as JSON values."""
        return self._declared({"pooling", "activation", "normalize", "thresholds"})

    def _declared(self, names: set[str]) -> dict[str, Any]:
        return self.model_dump(mode="json", include=names, exclude_none=True)


def parse_declaration(data: bytes) -> TaskDeclaration:
    """The declaration in a JSON object; raises InvalidAdapterError naming every problem at once."""
    problems: list[str] = []
    value = parse_object(f"the part {PART!r}", data, problems)
    if value is not None:
        try:
            return TaskDeclaration.model_validate_json(canonical_json(value))
        except ValidationError as error:
            for problem in error.errors():
                where = ".".join(str(part) for part in problem["loc"])
                problems.append(f"the part {PART!r}: {where}: {problem['msg']}")
    raise InvalidAdapterError("what the upload says of its task is not valid", capped(problems))

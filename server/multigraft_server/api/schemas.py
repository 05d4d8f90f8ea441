"""The bodies of our own routes. Unknown fields and wrong types are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic.json_schema import SkipJsonSchema

from multigraft_adapters.errors import InvalidRequestError
from multigraft_adapters.registry import PRODUCTION
from multigraft_server.api.terms import TermsBody


class Body(BaseModel):
    """A body of ours."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PredictBody(Body, TermsBody):
    """The Hugging Face inference payload.

    Further fields stand for parameters of the same names: Hugging Face's client sends those of
    `feature-extraction` so.
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    inputs: Any
    parameters: dict[str, Any] | None = None
    stream: bool | None = None


def _kind_of_body(body: Any) -> str:
    return "Image" if isinstance(body, bytes) else "Json"  # bytes are what is not sent as JSON


RAW = "application/octet-stream"
Predicted = Annotated[
    Annotated[PredictBody, Tag("Json")] | Annotated[bytes, SkipJsonSchema(), Tag("Image")],
    Discriminator(_kind_of_body),
]
"""The payload, or an image as it is."""
IMAGE_CONTENT = {"schema": {"type": "string", "format": "binary"}}
IMAGE_AS_BODY = {"requestBody": {"content": {"image/*": IMAGE_CONTENT, RAW: IMAGE_CONTENT}}}
"""What the description of a route adds that takes an image as its body."""


class Entry(Body, TermsBody):
    """One prediction of a request for several tasks. `task` is a reference."""

    task: str
    inputs: Any
    parameters: dict[str, Any] | None = None


class ManyBody(Body, TermsBody):
    """One input for several tasks (`inputs`, `tasks`), or several predictions (`requests`)."""

    inputs: Any = None
    tasks: Annotated[list[str], Field(min_length=1)] | None = None
    parameters: dict[str, Any] | None = None
    requests: Annotated[list[Entry], Field(min_length=1)] | None = None

    def entries(self) -> list[Entry]:
        """The predictions asked for, in order. Raises InvalidRequestError unless the body has one of the forms."""
        beside = sorted(self.model_fields_set - {"requests"})
        if self.requests is not None:
            if beside:
                raise InvalidRequestError("give either inputs and tasks, or requests", param=beside[0])
            return self.requests
        if self.tasks is None or "inputs" not in self.model_fields_set:
            absent = "tasks" if self.tasks is None else "inputs"
            raise InvalidRequestError("give inputs and tasks, or requests", param=absent)
        shared: dict[str, Any] = {
            "inputs": self.inputs,
            "parameters": self.parameters,
            "priority": self.priority,
            "cache_salt": self.cache_salt,
        }
        return [Entry(task=task, **shared) for task in self.tasks]


VersionNumber = Annotated[int, Field(ge=1)]
WrittenNumber = Annotated[str, Field(pattern="^[1-9][0-9]{0,8}$")]


class AliasBody(Body):
    """Where an alias is to point: at a version, or split over several by weights that add up to 1."""

    version: VersionNumber | None = None
    weights: Annotated[dict[WrittenNumber, float], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if (self.version is None) == (self.weights is None):
            raise ValueError('give {"version": n} or {"weights": {"n": share, ...}}')
        return self

    @property
    def target(self) -> int | dict[int, float]:
        """The version, or the weights by version."""
        if self.version is not None:
            return self.version
        return {int(number): weight for number, weight in (self.weights or {}).items()}


class TagBody(Body):
    """A tag's value."""

    value: str


class MergeBody(Body):
    """What is merged: `off`, `auto` by the policy, or `pin`, which takes a task."""

    mode: Literal["off", "auto", "pin"]
    task: str | None = None

    @model_validator(mode="after")
    def _names_a_task_to_pin(self) -> Self:
        if (self.task is not None) != (self.mode == "pin"):
            raise InvalidRequestError("a task is given with the mode pin, and only with it", param="task")
        return self


class RollbackBody(Body):
    """Which alias goes back to where it was."""

    alias: str = PRODUCTION


class ErrorDetail(BaseModel):
    """What is wrong: a sentence, OpenAI's kind of error, the field, and our stable code."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """Every answer that is not a success."""

    error: ErrorDetail

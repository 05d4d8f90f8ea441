"""What our own routes answer, for their description in `GET /openapi.json`: answers are not built from these."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from multigraft_server.api.schemas import ErrorDetail


class Answer(BaseModel):
    """An answer that has these fields and no others."""

    model_config = ConfigDict(extra="forbid")


class OpenAnswer(BaseModel):
    """An answer that may have further fields."""

    model_config = ConfigDict(extra="allow")


class LabelAnswer(Answer):
    label: str
    score: float


class EntityAnswer(Answer):
    """A token has `entity` and its place `index`, a group of tokens `entity_group`."""

    entity: str = ""
    entity_group: str = ""
    index: int = 0
    score: float
    word: str
    start: int
    end: int


class SpanAnswer(Answer):
    answer: str
    score: float
    start: int
    end: int


class GeneratedToken(Answer):
    id: int
    text: str
    logprob: float | None
    special: bool


class GenerationDetails(Answer):
    finish_reason: Literal["eos_token", "stop_sequence", "length"]
    generated_tokens: int
    input_length: int
    seed: int | None
    prefill: list[Any] = []
    tokens: list[GeneratedToken] = []


class GeneratedAnswer(Answer):
    """`details` where the parameters ask for them."""

    generated_text: str
    details: GenerationDetails | None = None


class GenerationEvent(Answer):
    """One event of a streamed `text-generation`; only the last one has a text and details."""

    index: int
    token: GeneratedToken
    generated_text: str | None
    details: GenerationDetails | None


Vector = list[float]
Output = (
    list[list[LabelAnswer]]
    | list[LabelAnswer]
    | list[EntityAnswer]
    | list[list[EntityAnswer]]
    | SpanAnswer
    | list[SpanAnswer]
    | list[list[SpanAnswer]]
    | Vector
    | list[Vector]
    | list[list[Vector]]
    | GeneratedAnswer
    | list[GeneratedAnswer]
)
"""By the task's type, see `docs/http.md`; a list of inputs gives a list."""


class Result(Answer):
    """One prediction of several: who answered and the output, or the error."""

    task: str
    version: int | str = 0
    adapter: str = ""
    output: Output | None = None
    error: ErrorDetail | None = None


class Results(Answer):
    results: list[Result]


class UploadAnswer(Answer):
    task: str
    version: int
    digest: str


class AliasState(Answer):
    """A split has `weights`, and `version` is the heaviest of it."""

    version: int
    weights: dict[str, float] = {}


class AliasOfTask(AliasState):
    name: str
    revision: int


class PastAlias(AliasState):
    at: datetime


class AliasAnswer(AliasState):
    """`history` is told where an alias is read, newest first."""

    task: str
    alias: str
    revision: int
    history: list[PastAlias] = []


class AliasRemoved(Answer):
    task: str
    alias: str
    removed: Literal[True]


class VersionSummary(Answer):
    version: int
    digest: str
    task_type: str
    method: str
    created_at: datetime
    retired_at: datetime | None
    tier: Literal["device", "host", "store"]
    merged: bool
    leases: int
    tags: dict[str, str]
    metrics: dict[str, float]


class VersionOfTask(VersionSummary):
    task: str


class VersionAnswer(VersionOfTask):
    """With the whole manifest, samples left out."""

    manifest: dict[str, Any]


class TaskAnswer(Answer):
    name: str
    created_at: datetime
    pinned: bool
    versions: list[VersionSummary]
    aliases: list[AliasOfTask]


class Tasks(Answer):
    tasks: list[TaskAnswer]


class Tags(Answer):
    task: str
    version: int
    tags: dict[str, str]


class EventAnswer(Answer):
    id: int
    at: datetime
    actor: str
    action: str
    task: str | None
    detail: dict[str, Any]


class Events(Answer):
    events: list[EventAnswer]


class KeyAnswer(Answer):
    id: str
    name: str
    scopes: list[str]
    tenant: str | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    max_concurrent: int | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class NewKeyAnswer(KeyAnswer):
    """`key` is the secret, which nothing tells again."""

    key: str


class Keys(Answer):
    keys: list[KeyAnswer]


class PinAnswer(Answer):
    task: str
    pinned: bool
    adapters: list[str]


class MergeAnswer(Answer):
    """`digest` of what was merged; `ended` tells whether there was a merge to end."""

    task: str
    merged: bool
    digest: str = ""
    ended: bool = False


class MergeMode(Answer):
    mode: Literal["off", "auto", "pin"]
    task: str | None


class EngineAnswer(OpenAnswer):
    """The engine's state, of which these fields stay."""

    alive: bool
    base: dict[str, Any]
    num_slots: int
    slots: list[dict[str, Any]]
    tiers: dict[str, list[str]]
    running: int
    waiting: int
    bytes: dict[str, int]
    merge: dict[str, Any]


class Status(OpenAnswer):
    status: str


class VllmErrorDetail(Answer):
    message: str
    type: str
    param: str | None
    code: int


class VllmError(Answer):
    """An error as vLLM tells it, of the two routes that are vLLM's: `code` is the status."""

    error: VllmErrorDetail | ErrorDetail

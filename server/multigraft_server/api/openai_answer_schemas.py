"""What OpenAI's routes answer, for their description in `GET /openapi.json`: answers are not built from these."""

from __future__ import annotations

from typing import Any, Literal

from multigraft_server.api.answer_schemas import Answer


class Usage(Answer):
    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0
    prompt_tokens_details: dict[str, int] = {}


class TokenLogprob(Answer):
    token: str
    logprob: float | None
    bytes: list[int]
    top_logprobs: list[TokenLogprob] = []


class ChatLogprobs(Answer):
    content: list[TokenLogprob]
    refusal: None


class ChatMessage(Answer):
    role: Literal["assistant"]
    content: str
    refusal: None


FinishReason = Literal["stop", "length"]


class ChatChoice(Answer):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class Head(Answer):
    id: str
    created: int
    model: str
    system_fingerprint: None


class ChatCompletion(Head):
    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage


class Delta(Answer):
    role: str = ""
    content: str = ""
    refusal: None = None


class ChatChunkChoice(Answer):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatChunk(Head):
    """One event of a streamed chat; after the last one comes `[DONE]`."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class TextLogprobs(Answer):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(Answer):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason | None


class TextCompletion(Head):
    """A whole answer, or one event of a streamed one, after the last of which comes `[DONE]`."""

    object: Literal["text_completion"]
    choices: list[TextChoice]
    usage: Usage | None = None


class EmbeddingEntry(Answer):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Embeddings(Answer):
    object: Literal["list"]
    data: list[EmbeddingEntry]
    model: str
    usage: Usage


class Model(Answer):
    """`root` is the digest of the version that the name means, `parent` the base."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None


class Models(Answer):
    object: Literal["list"]
    data: list[Model]


class File(Answer):
    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: str
    status_details: str | None


class FileDeleted(Answer):
    id: str
    object: Literal["file"]
    deleted: Literal[True]


class Page(Answer):
    """A page of a list, which goes on after `last_id`."""

    object: Literal["list"]
    has_more: bool
    first_id: str | None
    last_id: str | None


class Files(Page):
    data: list[File]


class JobAnswer(Answer):
    id: str
    object: Literal["fine_tuning.job"]
    status: Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
    model: str
    fine_tuned_model: str | None
    created_at: int
    finished_at: int | None
    estimated_finish: int | None
    training_file: str
    validation_file: str | None
    result_files: list[str]
    trained_tokens: int | None
    error: dict[str, Any] | None
    seed: int
    hyperparameters: dict[str, Any]
    method: dict[str, Any]
    metadata: dict[str, str] | None
    integrations: list[Any]
    user_provided_suffix: str | None
    organization_id: str
    multigraft: dict[str, Any]


class JobsAnswer(Page):
    data: list[JobAnswer]


class JobEventAnswer(Answer):
    id: str
    object: Literal["fine_tuning.job.event"]
    created_at: int
    level: str
    message: str
    type: str
    data: dict[str, Any] | None


class JobEvents(Page):
    data: list[JobEventAnswer]


class JobCheckpointAnswer(Answer):
    id: str
    object: Literal["fine_tuning.job.checkpoint"]
    created_at: int
    fine_tuning_job_id: str
    fine_tuned_model_checkpoint: str
    step_number: int
    metrics: dict[str, Any]


class JobCheckpoints(Page):
    data: list[JobCheckpointAnswer]

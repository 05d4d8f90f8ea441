"""`GET /openapi.json`: the framework's description of the routes, made complete: answers, errors, keys, names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from fastapi import FastAPI
from pydantic import TypeAdapter

from multigraft_adapters.registry.names import NAME_PATTERN, REFERENCE_PATTERN
from multigraft_server.api import answer_schemas as ours
from multigraft_server.api import openai_answer_schemas as openais
from multigraft_server.api.auth import OPEN_PATHS
from multigraft_server.api.schemas import ErrorBody

Document = dict[str, Any]

EVENTS = "text/event-stream"
JSON = "application/json"
REFERENCE = "#/components/schemas/{model}"

ANSWERS: dict[str, dict[str, Any]] = {
    "POST /v1/tasks/{ref}/predict": {"200": ours.Output},
    "POST /v1/predict": {"200": ours.Results},
    "POST /v1/chat/completions": {"200": openais.ChatCompletion},
    "POST /v1/completions": {"200": openais.TextCompletion},
    "POST /v1/embeddings": {"200": openais.Embeddings},
    "GET /v1/models": {"200": openais.Models},
    "GET /v1/models/{ref}": {"200": openais.Model},
    "POST /v1/tasks/{task}/versions": {"200": ours.UploadAnswer, "201": ours.UploadAnswer},
    "GET /v1/tasks/{task}/aliases/{alias}": {"200": ours.AliasAnswer},
    "PUT /v1/tasks/{task}/aliases/{alias}": {"200": ours.AliasAnswer},
    "DELETE /v1/tasks/{task}/aliases/{alias}": {"200": ours.AliasRemoved},
    "POST /v1/tasks/{task}/rollback": {"200": ours.AliasAnswer},
    "GET /v1/tasks": {"200": ours.Tasks},
    "GET /v1/tasks/{task}": {"200": ours.TaskAnswer},
    "GET /v1/tasks/{task}/versions/{number}": {"200": ours.VersionAnswer},
    "DELETE /v1/tasks/{task}/versions/{number}": {"200": ours.VersionOfTask},
    "PUT /v1/tasks/{task}/versions/{number}/tags/{tag}": {"200": ours.Tags},
    "DELETE /v1/tasks/{task}/versions/{number}/tags/{tag}": {"200": ours.Tags},
    "GET /v1/events": {"200": ours.Events},
    "POST /v1/keys": {"201": ours.NewKeyAnswer},
    "GET /v1/keys": {"200": ours.Keys},
    "DELETE /v1/keys/{id}": {"200": ours.KeyAnswer},
    "POST /v1/tasks/{task}/pin": {"200": ours.PinAnswer},
    "DELETE /v1/tasks/{task}/pin": {"200": ours.PinAnswer},
    "POST /v1/tasks/{task}/merge": {"200": ours.MergeAnswer},
    "DELETE /v1/tasks/{task}/merge": {"200": ours.MergeAnswer},
    "PUT /v1/merge": {"200": ours.MergeMode},
    "POST /v1/load_lora_adapter": {"200": str},
    "POST /v1/unload_lora_adapter": {"200": str},
    "POST /v1/files": {"200": openais.File},
    "GET /v1/files": {"200": openais.Files},
    "GET /v1/files/{file_id}": {"200": openais.File},
    "DELETE /v1/files/{file_id}": {"200": openais.FileDeleted},
    "GET /v1/files/{file_id}/content": {"200": bytes},
    "POST /v1/fine_tuning/jobs": {"200": openais.JobAnswer},
    "GET /v1/fine_tuning/jobs": {"200": openais.JobsAnswer},
    "GET /v1/fine_tuning/jobs/{job_id}": {"200": openais.JobAnswer},
    "POST /v1/fine_tuning/jobs/{job_id}/cancel": {"200": openais.JobAnswer},
    "POST /v1/fine_tuning/jobs/{job_id}/pause": {"200": openais.JobAnswer},
    "POST /v1/fine_tuning/jobs/{job_id}/resume": {"200": openais.JobAnswer},
    "GET /v1/fine_tuning/jobs/{job_id}/events": {"200": openais.JobEvents},
    "GET /v1/fine_tuning/jobs/{job_id}/checkpoints": {"200": openais.JobCheckpoints},
    "GET /v1/engine": {"200": ours.EngineAnswer},
    "GET /health/live": {"200": ours.Status},
    "GET /health/ready": {"200": ours.Status},
    "GET /metrics": {"200": str},
}
"""What each route answers where it succeeds, by status."""

STREAMED: dict[str, Any] = {
    "POST /v1/tasks/{ref}/predict": ours.GenerationEvent,
    "POST /v1/chat/completions": openais.ChatChunk,
    "POST /v1/completions": openais.TextCompletion,
}
"""What one event of the routes is that stream, where the body asks for it."""

ERRORS: dict[str, str] = {
    "400": "The request is wrong: `error.param` names the field.",
    "401": "A key is needed, or this one is not valid.",
    "403": "The key has not the scope that the route needs.",
    "404": "There is no such thing, or the key does not see it.",
    "409": "What is asked for contradicts the present state.",
    "413": "The body is too large.",
    "429": "The key's limits are used up; `retry-after` says for how many seconds.",
    "503": "The server has no room, or stops; `retry-after` says for how many seconds.",
    "504": "The deadline passed before the answer was complete.",
    "default": "Any other error.",
}
_OF_KEYS = ("401", "403", "404", "409", "413", "429")
VLLM_ROUTES = frozenset({"POST /v1/load_lora_adapter", "POST /v1/unload_lora_adapter"})

ETAG = r'^(\*|(W/)?("[0-9]{1,18}"|[0-9]{1,18}))$'
PATTERNS = {"task": NAME_PATTERN, "alias": NAME_PATTERN, "tag": NAME_PATTERN, "ref": REFERENCE_PATTERN}
"""The rules of names, which our own sentences explain to whoever breaks them."""

_FILE = {"type": "string", "format": "binary"}
FORMS: dict[str, dict[str, Any]] = {
    "POST /v1/tasks/{task}/versions": {
        "type": "object",
        "properties": {
            "file": {"type": "array", "items": _FILE, "minItems": 1},
            "task": {"type": "string", "description": "JSON: what the manifest of a foreign adapter lacks"},
        },
        "required": ["file"],
    },
    "POST /v1/files": {
        "type": "object",
        "properties": {"file": _FILE, "purpose": {"const": "fine-tune"}},
        "required": ["file", "purpose"],
    },
}
"""The routes whose bodies are multipart/form-data."""


def describe_routes(app: FastAPI) -> None:
    """Have the application describe itself in full."""
    plain: Callable[[], Document] = app.openapi

    @cache
    def described() -> Document:
        document = plain()
        schemas = document["components"]["schemas"]
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for route, operation in _operations(document):
            if route in ANSWERS:
                operation["responses"] = _responses(route, schemas)
            if route.split()[1] not in OPEN_PATHS:
                operation["security"] = [{"key": []}]
            if route in FORMS:
                operation["requestBody"] = {
                    "required": True,
                    "content": {"multipart/form-data": {"schema": FORMS[route]}},
                }
            for parameter in operation.get("parameters", ()):
                _make_precise(parameter)
        return document

    app.openapi = described  # type: ignore[method-assign]


def _operations(document: Document) -> Iterator[tuple[str, Document]]:
    """Every route as `METHOD path`, with its description."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield f"{method.upper()} {path}", operation


def _responses(route: str, schemas: Document) -> Document:
    responses: Document = {}
    for status, answer in ANSWERS[route].items():
        content = _content(route, answer, schemas)
        if route in STREAMED:
            content[EVENTS] = {
                "schema": {"type": "string"},
                "x-event-schema": _schema(STREAMED[route], schemas),
            }
        responses[status] = _response("The answer.", content)
    error = ours.VllmError if route in VLLM_ROUTES else ErrorBody
    is_open = route.split()[1] in OPEN_PATHS
    for status, meaning in ERRORS.items():
        if not (is_open and status in _OF_KEYS):
            responses[status] = _response(meaning, {JSON: {"schema": _schema(error, schemas)}})
    return responses


def _response(meaning: str, content: Mapping[str, Any]) -> Document:
    request_id = {"required": True, "schema": {"type": "string"}, "description": "the request's id"}
    return {"description": meaning, "content": dict(content), "headers": {"x-request-id": request_id}}


def _content(route: str, answer: Any, schemas: Document) -> Document:
    if answer is bytes:
        return {"application/octet-stream": {"schema": _FILE}}
    if answer is not str:
        return {JSON: {"schema": _schema(answer, schemas)}}
    kinds = ["text/plain", "application/openmetrics-text"] if route == "GET /metrics" else ["text/plain"]
    return {kind: {"schema": {"type": "string"}} for kind in kinds}


def _schema(answer: Any, schemas: Document) -> Document:
    """The schema of a model or a union of them; the models that it names are added to `schemas`."""
    schema = TypeAdapter(answer).json_schema(mode="serialization", ref_template=REFERENCE)
    schemas.update(schema.pop("$defs", {}))
    name = schema.get("title")
    if name is None or "properties" not in schema:
        return schema
    schemas[name] = schema
    return {"$ref": REFERENCE.format(model=name)}


def _make_precise(parameter: Document) -> None:
    """A parameter that may be left out cannot be null; a name follows its rule."""
    schema = parameter["schema"]
    kinds = [kind for kind in schema.pop("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) == 1:
        schema |= kinds[0]
    elif kinds:
        schema["anyOf"] = kinds
    if parameter["in"] == "path" and parameter["name"] in PATTERNS:
        schema["pattern"] = PATTERNS[parameter["name"]]
    if parameter["name"] == "if-match":
        schema["pattern"] = ETAG

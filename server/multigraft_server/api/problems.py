"""The one table from errors to HTTP statuses, and the one shape in which every error is answered."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from multigraft_adapters import errors
from multigraft_server.trails import note_error

logger = logging.getLogger(__name__)

_TYPE_TAG = re.compile(r"str|int|float|bool|constrained-\w+|\w+\[.*\]|[A-Z]\w*")

NOT_AN_OBJECT = "the body must be a JSON object, sent as application/json"


@dataclass(frozen=True, slots=True)
class Problem:
    """How a kind of error is answered: its status, and OpenAI's `type`."""

    status: int
    type: str


_INVALID = Problem(400, "invalid_request_error")
_NOT_FOUND = Problem(404, "not_found_error")
_SERVER = Problem(500, "server_error")
_UNAVAILABLE = Problem(503, "unavailable_error")

PROBLEMS: dict[type[errors.MultigraftError], Problem] = {
    errors.MultigraftError: _SERVER,
    errors.InputError: _INVALID,
    errors.InvalidRequestError: _INVALID,
    errors.ContextLengthError: _INVALID,
    errors.TaskTypeMismatchError: _INVALID,
    errors.ProblemsError: _INVALID,
    errors.InvalidAdapterError: _INVALID,
    errors.InvalidRecipeError: _INVALID,
    errors.InvalidDataError: _INVALID,
    errors.PayloadTooLargeError: Problem(413, "invalid_request_error"),
    errors.HeadTooLargeError: Problem(431, "invalid_request_error"),
    errors.RequestTimeoutError: Problem(408, "timeout_error"),
    errors.AuthenticationError: Problem(401, "authentication_error"),
    errors.PermissionDeniedError: Problem(403, "permission_error"),
    errors.QuotaError: Problem(429, "rate_limit_error"),
    errors.NotFoundError: _NOT_FOUND,
    errors.KeyNotFoundError: _NOT_FOUND,
    errors.TaskNotFoundError: _NOT_FOUND,
    errors.VersionNotFoundError: _NOT_FOUND,
    errors.FileNotStoredError: _NOT_FOUND,
    errors.JobNotFoundError: _NOT_FOUND,
    errors.RouteNotFoundError: _NOT_FOUND,
    errors.MethodNotAllowedError: Problem(405, "invalid_request_error"),
    errors.ConflictError: Problem(409, "conflict_error"),
    errors.IdempotencyConflictError: Problem(409, "conflict_error"),
    errors.MergeRefusedError: Problem(409, "conflict_error"),
    errors.LeaseLostError: Problem(409, "conflict_error"),
    errors.UnavailableError: _UNAVAILABLE,
    errors.OverloadedError: _UNAVAILABLE,
    errors.DrainingError: _UNAVAILABLE,
    errors.RegistryUnavailableError: _UNAVAILABLE,
    errors.VersionRetiredError: _UNAVAILABLE,
    errors.OutOfMemoryError: _UNAVAILABLE,
    errors.StepStalledError: _UNAVAILABLE,
    errors.EngineStoppedError: _UNAVAILABLE,
    errors.StoreUnavailableError: _UNAVAILABLE,
    errors.DeadlineError: Problem(504, "timeout_error"),
    errors.RequestCancelledError: Problem(499, "cancelled_error"),
    errors.AdapterLoadError: _SERVER,
    errors.StepFailedError: _SERVER,
    errors.IntegrityError: _SERVER,
    errors.TrainingFailedError: _SERVER,
    errors.TrainingStoppedError: _SERVER,
    errors.SetupError: _SERVER,
    errors.BaseNotFoundError: _SERVER,
    errors.UnsupportedBaseError: _SERVER,
    errors.DataFolderError: _SERVER,
    errors.BindError: _SERVER,
    errors.ServerUnreachableError: Problem(502, "server_error"),
    errors.RemoteError: Problem(502, "server_error"),
}


def problem_of(error: errors.MultigraftError) -> Problem:
    """The table's line for an error, or for the nearest of its bases."""
    return next(PROBLEMS[kind] for kind in type(error).__mro__ if kind in PROBLEMS)


def as_ours(error: BaseException) -> errors.MultigraftError:
    """The error as one of the tree's; what we did not raise on purpose becomes an `internal_error`."""
    if isinstance(error, errors.MultigraftError):
        return error
    if isinstance(error, RequestValidationError):
        return _from_validation(error)
    if isinstance(error, HTTPException):
        return _from_http(error)
    return errors.MultigraftError("the server failed to answer; its log says why")


def error_body(error: BaseException) -> dict[str, Any]:
    """The one shape: `{"error": {"message", "type", "param", "code"}}`."""
    ours = as_ours(error)
    return {
        "error": {
            "message": ours.message,
            "type": problem_of(ours).type,
            "param": ours.param,
            "code": ours.code,
        }
    }


def error_response(error: BaseException, *, retry_after_seconds: int = 1) -> JSONResponse:
    """The whole answer to an error. What we did not raise on purpose, or is our fault, is logged,
    and so is why a store failed, which is not the caller's to know."""
    ours = as_ours(error)
    status = problem_of(ours).status
    note_error(ours.code)
    if status == 500:
        logger.error("a request failed", exc_info=error)
    elif isinstance(ours, errors.StoreUnavailableError) and "reason" in ours.data:
        logger.warning("%s: %s", ours.message, ours.data["reason"])
    return JSONResponse(error_body(ours), status, headers=_headers(ours, status, retry_after_seconds))


def _headers(error: errors.MultigraftError, status: int, retry_after_seconds: int) -> dict[str, str]:
    headers: dict[str, str] = dict(error.data.get("headers", {}))
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if status == 409:
        headers["x-should-retry"] = "false"  # the openai SDK would try again
        if error.data.get("revision"):
            headers["etag"] = f'"{error.data["revision"]}"'
    if status == 503:
        headers["retry-after"] = str(retry_after_seconds)
    if status == 429:
        headers["retry-after"] = str(max(1, math.ceil(error.data.get("retry_after", 1))))
    return headers


_KINDS = {408: errors.RequestTimeoutError, 413: errors.PayloadTooLargeError}


def _from_http(error: HTTPException) -> errors.MultigraftError:
    """What the framework raises: no such route or method, and what the guard of bodies refuses."""
    headers = error.headers or {}
    if error.status_code == 404:
        return errors.RouteNotFoundError("no route has this path")
    if error.status_code == 405:
        allowed = next((value for name, value in headers.items() if name.lower() == "allow"), "")
        return errors.MethodNotAllowedError(f"this route takes {allowed or 'another method'}", headers=headers)
    return _KINDS.get(error.status_code, errors.InvalidRequestError)(error.detail, headers=headers)


def _from_validation(error: RequestValidationError) -> errors.MultigraftError:
    """The first field that is wrong in a body, a path or a query."""
    found = error.errors()
    problem = found[0]
    place, *path = problem["loc"]
    if problem["type"] == "json_invalid":
        return errors.InvalidRequestError(f"the body is not JSON: {problem['ctx']['error']}")
    param = _field(path)
    if place == "body" and not param and problem["type"] != "value_error":
        return errors.InvalidRequestError(NOT_AN_OBJECT)
    if problem["type"] == "extra_forbidden":
        return errors.InvalidRequestError(f"there is no field {param!r}", param=param)
    # A field of several possible types has one problem for each of them.
    own = [one["msg"].removeprefix("Value error, ") for one in found if _field(one["loc"][1:]) == param]
    prefix = f"{param}: " if param else ""
    return errors.InvalidRequestError(prefix + " or ".join(dict.fromkeys(own)), param=param or None)


def _field(path: Sequence[int | str]) -> str:
    """The field's name, without the types that pydantic adds where a field may have several."""
    names = [str(part) for part in path]
    return ".".join(name for name in names if not _TYPE_TAG.fullmatch(name))

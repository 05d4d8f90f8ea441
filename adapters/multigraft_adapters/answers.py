"""Reads a server's answers for the client: success or RemoteError, JSON, and the events of a stream."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import httpx

from multigraft_adapters.errors import RemoteError

_DATA = b"data:"
_DONE = b"[DONE]"


def successful(response: httpx.Response) -> httpx.Response:
    """The response itself; raises RemoteError with the server's sentence when its status is not a success."""
    if response.is_success:
        return response
    try:
        error = response.json()["error"]
        message, code, param = str(error["message"]), error.get("code"), error.get("param")
    except (ValueError, KeyError, TypeError, AttributeError):
        message, code, param = f"{response.url} answered with status {response.status_code}", None, None
    raise RemoteError(message, status=response.status_code, remote_code=code, param=param)


def any_json(response: httpx.Response) -> Any:
    """The answer's JSON value; raises RemoteError when it has none."""
    try:
        return response.json()
    except ValueError as error:
        raise _unexpected(response) from error


def json_object(response: httpx.Response, *fields: str) -> dict[str, Any]:
    """The answer's JSON object; raises RemoteError when it is something else or lacks one of `fields`."""
    value = any_json(response)
    if not isinstance(value, dict) or not value.keys() >= set(fields):
        raise _unexpected(response)
    return value


def json_list(response: httpx.Response, field: str) -> list[dict[str, Any]]:
    """The list under `field` of the answer's object; raises RemoteError when it is something else."""
    value = json_object(response).get(field)
    if not isinstance(value, list):
        raise _unexpected(response)
    return value


def read_events(pieces: Iterable[bytes], status: int) -> Iterator[dict[str, Any]]:
    """Each server-sent event's object, up to `[DONE]`. `status` is the one under which the stream began.

    Raises RemoteError when the server reports an error inside the stream, when an event is no JSON object,
    and when the stream ends without `[DONE]`.
    """
    for line in _lines(pieces):
        if not line.startswith(_DATA):
            continue
        data = line[len(_DATA) :].strip()
        if data == _DONE:
            return
        yield _event(data, status)
    raise RemoteError("the stream ended before its answer was complete", status=status)


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    # NOTE: not str.splitlines, which also splits at U+2028 and others that may stand inside a JSON string.
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    yield rest


def _event(data: bytes, status: int) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise RemoteError("the stream holds an event that is not a JSON object", status=status)
    error = event.get("error")
    if isinstance(error, dict):
        message = error.get("message", "the server ended the stream with an error")
        raise RemoteError(str(message), status=status, remote_code=error.get("code"))
    return event


def _unexpected(response: httpx.Response) -> RemoteError:
    message = f"{response.url} did not answer as a multigraft server does"
    return RemoteError(message, status=response.status_code)

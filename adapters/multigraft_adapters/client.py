"""The HTTP client of a multigraft server: what the commands and training's publish speak through."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, overload
from urllib.parse import quote

import httpx

from multigraft_adapters.answers import any_json, json_list, json_object, read_events, successful
from multigraft_adapters.artifact import other_files, read_folder
from multigraft_adapters.errors import InvalidRequestError, RemoteError, ServerUnreachableError

DEFAULT_URL = "http://127.0.0.1:8100"
ACTOR_HEADER = "x-multigraft-actor"
CONNECT_SECONDS = 10.0

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Pushed:
    """What became of an upload. `created` is False when the task had this very content already;
    `left_out` names the folder's files that are not part of the artifact.
    """

    task: str
    version: int
    digest: str
    created: bool
    left_out: tuple[str, ...]


class Client:
    """A connection to one server. Use it in a `with`, or call `close`.

    Every answer that is not a success raises RemoteError with the server's sentence, status and code; no
    answer at all, or a broken-off one, raises ServerUnreachableError. `timeout` is in seconds and counts the
    silence between two pieces of an answer. Not for several threads at once.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        api_key: str | None = None,
        timeout: float = 600.0,
        *,
        actor: str | None = None,
    ) -> None:
        """Connects at the first request. The server's events name `actor` for what is changed through here.

        Raises InvalidRequestError (param `url`) for what is no HTTP URL.
        """
        self.url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.url,
            headers=({"authorization": f"Bearer {api_key}"} if api_key else {})
            | ({ACTOR_HEADER: actor} if actor else {}),
            timeout=httpx.Timeout(timeout, connect=CONNECT_SECONDS),
            trust_env=not _is_loopback(_checked(self.url)),  # a proxy cannot reach this machine's loopback
        )

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def predict(
        self, ref: str, inputs: Any, parameters: Mapping[str, Any] | None = None
    ) -> tuple[Any, Mapping[str, str]]:
        """The output of one task for `inputs`, as its task type shapes it, and the answer's headers (of any
        case), which name the task, the version and the adapter that computed it.
        """
        body = {"inputs": inputs} | ({"parameters": dict(parameters)} if parameters else {})
        response = self._send("POST", f"/v1/tasks/{_part(ref)}/predict", body)
        return any_json(response), response.headers

    def fan_out(
        self, refs: Sequence[str], inputs: Any, parameters: Mapping[str, Any] | None = None
    ) -> tuple[list[dict[str, Any]], Mapping[str, str]]:
        """One input (or a list of them) asked of several tasks: for each, in order, an object with `task`,
        `version`, `adapter` and `output`, or with `task` and `error`; and the answer's headers.
        """
        body = {"inputs": inputs, "tasks": list(refs)}
        body |= {"parameters": dict(parameters)} if parameters else {}
        response = self._send("POST", "/v1/predict", body)
        return json_list(response, "results"), response.headers

    @overload
    def chat(
        self, model: str, messages: Sequence[Message], *, stream: Literal[False] = False, **fields: Any
    ) -> dict[str, Any]: ...

    @overload
    def chat(
        self, model: str, messages: Sequence[Message], *, stream: Literal[True], **fields: Any
    ) -> Iterator[dict[str, Any]]: ...

    def chat(
        self, model: str, messages: Sequence[Message], *, stream: bool = False, **fields: Any
    ) -> dict[str, Any] | Iterator[dict[str, Any]]:
        """A chat completion in OpenAI's shape, or with `stream` its chunks as they come.

        The stream's request is sent when its first chunk is asked for; closing the iterator ends it early.
        """
        body = {"model": model, "messages": list(messages), **fields}
        if stream:
            return self._stream("/v1/chat/completions", body | {"stream": True})
        return json_object(self._send("POST", "/v1/chat/completions", body))

    def push(
        self,
        folder: Path,
        task: str,
        alias: str | None = None,
        declaration: Mapping[str, Any] | None = None,
    ) -> Pushed:
        """Uploads the artifact in a folder as a version of the task, and points the alias at it.

        `declaration` says what a foreign adapter's files do not: `task_type`, `id2label`, ... Raises
        InvalidAdapterError when the folder cannot be read as an artifact.
        """
        files = read_folder(folder)
        response = self._reach(
            self._http.build_request(
                "POST",
                f"/v1/tasks/{_part(task)}/versions",
                params={"alias": alias} if alias else {},
                files=[("file", (name, content)) for name, content in files.items()],
                data={"task": json.dumps(dict(declaration))} if declaration else {},
            )
        )
        answer = json_object(response, "task", "version", "digest")
        return Pushed(
            task=answer["task"],
            version=answer["version"],
            digest=answer["digest"],
            created=response.status_code == httpx.codes.CREATED,
            left_out=tuple(other_files(folder)),
        )

    def tasks(self) -> list[dict[str, Any]]:
        """Every task with its versions, its aliases and where they are resident."""
        return json_list(self._send("GET", "/v1/tasks"), "tasks")

    def task(self, name: str) -> dict[str, Any]:
        """One task, as in `tasks`."""
        return json_object(self._send("GET", f"/v1/tasks/{_part(name)}"))

    def version(self, task: str, number: int) -> dict[str, Any]:
        """One version with its manifest."""
        return json_object(self._send("GET", f"/v1/tasks/{_part(task)}/versions/{number}"))

    def set_alias(
        self, task: str, alias: str, target: int | Mapping[int, float], if_match: int | None = None
    ) -> dict[str, Any]:
        """Points the alias at a version, or splits it over several by weights that add up to 1.

        A stale `if_match` (a revision) raises RemoteError, status 409.
        """
        weights = {} if isinstance(target, int) else {str(number): share for number, share in target.items()}
        body = {"weights": weights} if weights else {"version": target}
        path = f"/v1/tasks/{_part(task)}/aliases/{_part(alias)}"
        return json_object(self._send("PUT", path, body, _if_match(if_match)))

    def rollback(self, task: str, alias: str = "production", if_match: int | None = None) -> dict[str, Any]:
        """Takes the alias back to its state before its last change; `if_match` as in `set_alias`."""
        path = f"/v1/tasks/{_part(task)}/rollback"
        return json_object(self._send("POST", path, {"alias": alias}, _if_match(if_match)))

    def retire(self, task: str, number: int) -> dict[str, Any]:
        """Has a version served no longer; one that an alias points to raises RemoteError, status 409."""
        return json_object(self._send("DELETE", f"/v1/tasks/{_part(task)}/versions/{number}"))

    def events(self, task: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """The latest changes, newest first, of one task or of all."""
        query = httpx.QueryParams({"limit": limit} | ({} if task is None else {"task": task}))
        return json_list(self._send("GET", f"/v1/events?{query}"), "events")

    def create_key(self, **told: Any) -> dict[str, Any]:
        """A new key, its secret as `key`; `told` are the fields of `POST /v1/keys`."""
        return json_object(self._send("POST", "/v1/keys", told))

    def keys(self) -> list[dict[str, Any]]:
        """Every key, without secrets."""
        return json_list(self._send("GET", "/v1/keys"), "keys")

    def revoke_key(self, id: str) -> dict[str, Any]:
        """Lets a key open nothing any more."""
        return json_object(self._send("DELETE", f"/v1/keys/{_part(id)}"))

    def engine(self) -> dict[str, Any]:
        """The engine's present state: slots, tiers, queue."""
        return json_object(self._send("GET", "/v1/engine"))

    def health_ready(self) -> bool:
        """Whether a server is there and ready to answer; never raises for one that is not."""
        try:
            self._send("GET", "/health/ready")
        except (RemoteError, ServerUnreachableError):
            return False
        return True

    def _send(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        return self._reach(self._request(method, path, body, headers))

    def _reach(self, request: httpx.Request) -> httpx.Response:
        with self._reaching():
            return successful(self._http.send(request))

    def _stream(self, path: str, body: Any) -> Iterator[dict[str, Any]]:
        with self._reaching():
            response = self._http.send(self._request("POST", path, body), stream=True)
            try:
                if response.is_error:
                    response.read()
                yield from read_events(successful(response).iter_bytes(), response.status_code)
            finally:
                response.close()

    def _request(
        self, method: str, path: str, body: Any, headers: Mapping[str, str] | None = None
    ) -> httpx.Request:
        if body is None:
            return self._http.build_request(method, path, headers=headers)
        typed = {"content-type": "application/json", **(headers or {})}
        return self._http.build_request(method, path, content=_encoded(body), headers=typed)

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise ServerUnreachableError(
                f"no server at {self.url}; start one with `multigraft serve`", url=self.url
            ) from error
        except httpx.TimeoutException as error:
            raise ServerUnreachableError(f"{self.url} did not answer in time", url=self.url) from error
        except httpx.RequestError as error:
            raise ServerUnreachableError(
                f"the connection to {self.url} broke off: {error or type(error).__name__}", url=self.url
            ) from error


def _checked(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InvalidRequestError(f"{url!r} is not a URL of the form http://host:port", param="url")
    return parsed


def _is_loopback(url: httpx.URL) -> bool:
    try:
        return ipaddress.ip_address(url.host).is_loopback
    except ValueError:
        return url.host == "localhost"


def _if_match(revision: int | None) -> dict[str, str]:
    return {} if revision is None else {"if-match": f'"{revision}"'}


def _part(name: str) -> str:
    return quote(name, safe="@:")


def _encoded(body: Any) -> bytes:
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"the request cannot be written as JSON: {error}") from error
